"""The functions that the value family is wired from, called one by one; what each member may set."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import SPEC, random_batch, readable
from me_igm_jax import ConfigError, load
from me_igm_jax.algos import make_algorithm, value, value_continuous
from me_igm_jax.algos.value_family import (
    central_loss,
    entropy_bonus,
    initial_params,
    losses,
    make_parts,
    opt_loss,
    policy_logits,
    split_params,
    target_names,
    transformed,
)
from me_igm_jax.config.options import is_read, section_fields
from me_igm_jax.config.presets import readable_hypers
from me_igm_jax.ops.box_search import best_in_box, pick
from me_igm_jax.ops.gradient_share import GradientShare
from me_igm_jax.ops.losses import JointValues
from me_igm_jax.types import Learner

KEY = jax.random.key(0)
BOX = SPEC._replace(n_actions=0, action_dim=2, action_bounds=(-1.0, 3.0))
SMALL = {
    "net.hidden": 4, "net.recurrent": False, "algo.hyper_embed": 4, "algo.mixing_embed": 3,
    "algo.central_embed": 4, "algo.opt_embed": 2, "algo.proposals": 5,
}  # fmt: skip
T, B, N, A = 5, 4, SPEC.n_agents, SPEC.n_actions


def build(preset, spec=SPEC, **options):
    """A small configuration, its parts, and a learner with random weights."""
    env = "differential/mtq" if spec.continuous else "probe/clock"
    config = load(preset, env=env, **(readable(SMALL, preset, env, **options) | options))
    parts = make_parts(config, spec)
    rng, shapes = np.random.default_rng(0), jax.eval_shape(lambda: initial_params(parts, KEY))
    params = jax.tree.map(lambda x: np.float32(rng.uniform(-0.7, 0.7, x.shape)), shapes)
    target = {name: params[name] for name in target_names(params)}
    log_alpha = jnp.log(0.5) if parts.transform is not None else ()
    return config, parts, Learner(params=params, target=target, log_alpha=log_alpha)


def utilities_like(batch, instants=T + 1):
    return jax.random.normal(jax.random.key(1), (instants, B, N, A))


def first(batch, count=T):
    return jax.tree.map(lambda x: x[:count], batch.steps)


def joint(**given) -> JointValues:
    """JointValues of one transition, zero unless given."""
    zero = dict.fromkeys(JointValues._fields, jnp.zeros((1, 1)))
    return JointValues(**zero | {k: jnp.full((1, 1), v) for k, v in given.items()})


# -- parts and weights ----------------------------------------------------------------------------


def test_a_part_without_weights_has_no_entry():
    entries = {
        "vdn": {"agent"},
        "qmix": {"agent", "mixer"},
        "entropy_qmix": {"agent", "mixer"},
        "me_vdn": {"agent", "transform"},
        "soft_qmix": {"agent", "mixer", "transform", "utility_transform"},
        "qtran": {"agent", "mixer", "central_agent", "central_mixer"},
    }
    for preset, names in entries.items():
        _, _, learner = build(preset)
        assert set(learner.params) == names
        central = {name for name in names if name.startswith("central_")}
        assert set(learner.target) == (central or names - {"transform"})
        agents, heads = split_params(learner.params)
        assert set(agents) == names & {"agent", "central_agent"} and {**agents, **heads} == learner.params
    _, _, learner = build("me_ow_qmix", BOX, **{"algo.central_critic": True})
    central = {"central_agent", "central_head", "central_mixer"}
    assert set(learner.target) == central
    assert set(learner.params) == {"agent", "head", "mixer", "transform"} | central


# -- values ---------------------------------------------------------------------------------------


def test_mix_sums_what_was_done():
    _, parts, learner = build("vdn")
    batch = random_batch(KEY)
    q = utilities_like(batch, T)
    expected = np.take_along_axis(np.asarray(q), np.asarray(batch.action)[..., None], -1).sum((-2, -1))
    got = value.mix(parts, learner.params, q, batch.action, first(batch))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_mix_never_reads_the_unavailable():
    """QPLEX reads the best utility, but of available actions alone."""
    _, parts, learner = build("qplex")
    batch = random_batch(KEY)
    q, step = utilities_like(batch, T), first(batch)
    huge = jnp.where(step.avail, q, 1e6)
    one, two = (value.mix(parts, learner.params, x, batch.action, step) for x in (q, huge))
    np.testing.assert_array_equal(one, two)


def test_no_gradient_passes_from_the_logits_to_the_utilities():
    _, parts, learner = build("me_qmix")
    batch = random_batch(KEY)
    q, state = utilities_like(batch, T), batch.steps.state[:T]

    def total(params, q):
        return policy_logits(parts, params, q, state).sum()

    to_params, to_q = jax.grad(total, argnums=(0, 1))(learner.params, q)
    assert not to_q.any() and any(x.any() for x in jax.tree.leaves(to_params["transform"]))


def test_current_policy():
    """softmax(OPT_i(g_i(q)) / alpha) over the available actions, and nothing elsewhere."""
    _, parts, learner = build("soft_qmix")
    batch = random_batch(KEY)
    q, step = utilities_like(batch, T), first(batch)
    mixed = transformed(parts, learner.params, q, step.state)
    assert (mixed.argsort(-1) == q.argsort(-1)).all()
    logits = policy_logits(parts, learner.params, mixed, step.state)
    expected = jax.nn.softmax(jnp.where(step.avail, logits / 0.5, -jnp.inf), axis=-1)
    got = value.current_policy(parts, learner, q, step).probs
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_joint_values():
    """Where the batch's joint action is the greedy one, both have the same values."""
    _, parts, learner = build("cw_qmix")
    batch = random_batch(KEY)
    q = {"agent": utilities_like(batch), "central_agent": 2 * utilities_like(batch)}
    best = jnp.where(batch.steps.avail, q["agent"], -jnp.inf).argmax(-1)[:T]
    action = batch.action.at[0].set(best[0])
    v = value.joint_values(parts, learner.params, q, batch._replace(action=action))
    assert v.is_best[0].all() and (v.is_best == (action == best).all(-1)).all() and not v.is_best.all()
    np.testing.assert_array_equal(v.q_tot[0], v.q_tot_best[0])
    np.testing.assert_array_equal(v.q_hat[0], v.q_hat_best[0])
    assert (v.q_hat != v.q_tot).all() and (v.opt_sum == v.q_tot).all()  # no policy: no OPT


# -- targets and losses ---------------------------------------------------------------------------


def test_td_targets_by_hand():
    """Double Q-learning with VDN: the online utilities choose, the target networks value."""
    config, parts, learner = build("vdn", **{"hypers.td_lambda": 0.0, "hypers.gamma": 0.5})
    batch = random_batch(KEY)
    online = utilities_like(batch)
    targets = value.td_targets(parts, config.algo, learner, online, batch, KEY, config.hypers)
    best = np.where(batch.steps.avail, online, -np.inf).argmax(-1)
    q = np.asarray(parts.agent.unroll(learner.target["agent"], batch))
    following = np.take_along_axis(q, best[..., None], -1)[1:].sum((-2, -1))
    expected = batch.reward + 0.5 * batch.discount * following
    np.testing.assert_allclose(targets.q_tot, expected, rtol=1e-5, atol=1e-6)
    assert targets.entropy is None


def test_the_entropy_is_added_times_alpha():
    """At td_lambda 0: G with the exact entropy, less G without, is gamma d alpha H of the next instant."""
    found = {}
    for rule in ("exact", "none"):
        config, parts, learner = build("me_vdn", **{"hypers.td_lambda": 0.0, "algo.entropy": rule})
        batch = random_batch(KEY)
        q = utilities_like(batch)
        found[rule] = value.td_targets(parts, config.algo, learner, q, batch, KEY, config.hypers)
    entropy = found["exact"].entropy
    assert entropy.shape == (T + 1, B) and (entropy > 0).any()
    expected = config.hypers.gamma * batch.discount * 0.5 * entropy[1:]
    np.testing.assert_allclose(found["exact"].q_tot - found["none"].q_tot, expected, atol=1e-5)


def test_entropy_bonus():
    log_prob, entropy = jnp.asarray([-2.0]), jnp.asarray([0.7])
    given = [float(entropy_bonus(rule, log_prob, entropy)[0]) for rule in ("sample", "exact", "none")]
    np.testing.assert_allclose(given, [2.0, 0.7, 0.0])


def test_each_loss_moves_its_own_values():
    """L(phi) moves the sum of OPT_i and nothing else; L(psi) the central critic and nothing else."""
    mask, v = jnp.ones((1, 1)), joint(q_tot=2.0, opt_sum=5.0, q_hat=3.0)
    assert opt_loss(v, mask) == 4.5 and central_loss(v, jnp.full((1, 1), 4.0), mask) == 0.5
    floats = v._replace(is_best=jnp.zeros((1, 1)))
    slopes = jax.grad(lambda v: opt_loss(v, mask))(floats)
    assert slopes.opt_sum == 3.0 and slopes.q_tot == 0.0
    slopes = jax.grad(lambda v: central_loss(v, 4 * mask, mask))(floats)
    assert slopes.q_hat == -1.0 and slopes.q_tot == 0.0


@pytest.mark.parametrize(
    "preset, terms",
    [
        ("qmix", {"loss_td"}),
        ("ow_qmix", {"loss_td", "loss_central"}),
        ("qtran", {"loss_qtran", "loss_central"}),
        ("me_qmix", {"loss_td", "loss_opt"}),
        ("me_ow_qmix", {"loss_td", "loss_opt", "loss_central"}),
    ],
)
def test_the_total_is_the_sum_of_the_losses_asked_for(preset, terms):
    config, mask, g = load(preset, env="probe/clock"), jnp.ones((1, 1)), jnp.full((1, 1), 4.0)
    v = joint(q_tot=2.0, opt_sum=5.0, q_hat=3.0, q_hat_best=3.5)
    total, metrics = losses(config.algo, v, g, mask, config.hypers)
    assert {key for key in metrics if key.startswith("loss")} == terms
    np.testing.assert_allclose(total, sum(metrics[key] for key in terms))
    assert (metrics["q_tot"], metrics["target"]) == (2.0, 4.0)
    assert ("delta_q" in metrics) == (config.algo.policy == "softmax")


# -- acting ---------------------------------------------------------------------------------------


def test_epsilon_is_read_from_its_schedule():
    """At the start every action is random, at the end (epsilon 0) every action is greedy."""
    config, parts, learner = build("qmix", **{"hypers.eps_end": 0.0, "hypers.eps_steps": 100.0})
    step = jax.tree.map(lambda x: x[0], random_batch(KEY).steps)
    carry = parts.agent.carry(B)
    (_, remembered), greedy = value.greedy(parts, learner, carry, step)
    assert (remembered == greedy).all()
    acts = [
        value.act(parts, learner, carry, step, key, now, config.hypers)[1]
        for now in (0.0, 100.0)
        for key in jax.random.split(KEY, 8)
    ]
    assert any((x != greedy).any() for x in acts[:8]) and all((x == greedy).all() for x in acts[8:])


# -- continuous actions ---------------------------------------------------------------------------


def continuous_batch():
    batch = random_batch(KEY, SPEC)
    action = jax.random.uniform(KEY, (T, B, N, 2), minval=-1.0, maxval=3.0)
    steps = batch.steps._replace(avail=jnp.ones((T + 1, B, N, 1), bool))
    return batch._replace(steps=steps, action=action)


def test_pick():
    actions = jnp.arange(24.0).reshape(2, 4, 3)  # [N, K, d]
    np.testing.assert_array_equal(pick(actions, jnp.asarray([1, 3])), [[3, 4, 5], [21, 22, 23]])


def test_best_in_box():
    """The maximum of a quadratic inside the box, and of one that lies outside of it: at the border."""
    for centre, wanted in (([1.3, -0.4], [1.3, -0.4]), ([9.0, 0.0], [3.0, 0.0])):

        def q(u, centre=centre):
            return -jnp.square(u - jnp.asarray(centre)).sum(-1)

        found = best_in_box(q, (1, N), BOX, candidates=32, refinements=4)
        np.testing.assert_allclose(found, np.broadcast_to(wanted, (1, N, 2)), atol=0.05)


def test_values_of_proposals():
    """The value of a proposal is the value of that action; VDN adds the values of what was done."""
    _, parts, learner = build("vdn", BOX)
    h, state = jax.random.normal(KEY, (B, N, 4)), jnp.zeros((B, SPEC.state_dim))
    proposals = value_continuous.propose(parts, 7, KEY, (B,))
    assert proposals.shape == (B, N, 7, 2) and proposals.min() >= -1 and proposals.max() <= 3
    q = value_continuous.action_values(parts, learner.params, h, proposals)
    one = proposals[..., 4, :]
    np.testing.assert_allclose(
        value_continuous.action_values(parts, learner.params, h, one[..., None, :])[..., 0],
        q[..., 4],
        rtol=1e-5,
    )
    q_tot = value_continuous.mix(parts, learner.params, h, one, proposals, state)
    np.testing.assert_allclose(q_tot, q[..., 4].sum(-1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("preset", ["vdn", "me_vdn"])
def test_continuous_targets_end_with_the_episode(preset):
    """Where an episode ends the target is the reward; elsewhere the entropy per unit of volume is exact."""
    config, parts, learner = build(preset, BOX)
    batch, h = continuous_batch(), jax.random.normal(KEY, (T + 1, B, N, 4))
    proposals = value_continuous.propose(parts, 5, KEY, (T + 1, B))
    targets = value_continuous.td_targets(
        parts, config.algo, learner, h, proposals, batch, KEY, config.hypers
    )
    ended = batch.discount == 0
    np.testing.assert_array_equal(targets.q_tot[ended], batch.reward[ended])
    assert ended.any() and (targets.q_tot != batch.reward)[~ended].all()
    if preset == "vdn":
        assert targets.entropy is None
    else:  # never above a uniform density over the box
        assert targets.entropy.shape == (T + 1, B)
        assert (targets.entropy <= N * np.log(16.0) + 1e-5).all()


# -- settings -------------------------------------------------------------------------------------

TEMPERATURE = {"alpha", "alpha_lr", "target_entropy"}
EPSILON = {"eps_start", "eps_end", "eps_steps"}


def read_options(config):
    return {f.name for section, _, f in section_fields(config) if section == "algo" and is_read(config, f)}


def test_a_member_is_offered_what_it_reads():
    qmix, me_qmix, soft = (load(name, env="probe/clock") for name in ("qmix", "me_qmix", "soft_qmix"))
    assert {"mixing_embed", "hyper_embed", "weighting", "fit"} <= read_options(qmix)
    softmax_only = {"transform", "temperature", "entropy"}
    elsewhere = {"qplex_heads", "qplex_layers", "qatten_heads", "central_embed", "opt_embed", "mlp_embed"}
    assert not read_options(qmix) & (softmax_only | elsewhere)
    assert softmax_only <= read_options(me_qmix) and "opt_embed" not in read_options(me_qmix)
    assert "opt_embed" in read_options(soft)
    for config, read, unread in ((qmix, EPSILON, TEMPERATURE), (me_qmix, TEMPERATURE, EPSILON)):
        names = set(readable_hypers(config))
        assert read <= names and not unread & names and not {"optimistic_weight", "nopt_weight"} & names
    assert {"qplex_heads", "qplex_layers"} <= read_options(load("qplex", env="probe/clock"))
    assert "nopt_weight" in readable_hypers(load("qtran", env="probe/clock"))
    assert "weighting" not in read_options(load("qtran", env="probe/clock"))
    assert "optimistic_weight" in readable_hypers(load("cw_qmix", env="probe/clock"))
    box = load("me_ow_qmix", env="differential/mtq")
    assert {"proposals", "refinements", "weighting"} <= read_options(
        box
    ) and box.learner == "value_continuous"
    assert {"optimistic_weight", "alpha_end"} <= set(readable_hypers(box))


@pytest.mark.parametrize(
    "preset, key, value, rule",
    [
        ("qmix", "weighting", "centrally", "needs algo.central_critic=true"),
        ("qmix", "fit", "qtran", "needs algo.central_critic=true"),
        ("qmix", "weighting", "soft_qmix", "needs algo.policy=softmax"),
        ("me_qmix", "utility_transform", "mlp", "must keep the order of the utilities"),
        ("qmix", "transform", "opt", "qmix on probe/clock does not read it"),
        ("qmix", "qplex_heads", 3, "qmix on probe/clock does not read it"),
    ],
)
def test_options_that_do_not_fit_are_refused(preset, key, value, rule):
    with pytest.raises(ConfigError, match=rf"algo\.{key}.*: {rule}"):
        load(preset, env="probe/clock", **{f"algo.{key}": value})


def test_help_texts_of_hyperparameters_are_written_once():
    config = load("qmix", env="probe/clock")
    helps = {field.name: field.metadata["help"] for field in dataclasses.fields(config.hypers)}
    assert all(helps.values()) and len(set(helps.values())) == len(helps)


# -- make_algorithm -------------------------------------------------------------------------------


def test_actions_must_fit():
    with pytest.raises(ConfigError, match="env 'test': its actions are continuous, qmix's are not"):
        make_algorithm(load("qmix", env="probe/clock"), BOX)
    with pytest.raises(ConfigError, match="env 'test': its actions are discrete, qmix's are not"):
        make_algorithm(load("qmix", env="differential/mtq"), SPEC)


def test_who_can_share_gradient_steps():
    share = GradientShare("batch", 2)
    assert make_algorithm(load("me_qmix", env="probe/clock"), SPEC, share).data == "replay"
    for preset, env, spec in (
        ("soft_qmix_released", "probe/clock", SPEC), ("qmix", "differential/mtq", BOX),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"run.devices_per_seed=2: not for {preset} on test"):
            make_algorithm(load(preset, env=env), spec, share)
