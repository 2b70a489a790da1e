"""The value family with continuous actions: values of proposed actions in place of a value per action.

Each agent has a network Q_i(o_i, u) and K proposals u_1 .. u_K, drawn uniformly from the box at every
instant. It acts on proposal k with probability softmax_k(OPT_i(Q_i(u_k), s) / alpha), whose density,

    pi_i(u) = K / |box| E[ e^l(u) / (e^l(u) + sum of K - 1 others) ],    l = OPT_i(Q_i, s) / alpha,

is strictly increasing in Q_i(u) for every K, because x / (x + c) is: order is preserved, not only in the
limit e^l(u) / integral e^l. With a monotone mixer the agents' best actions are therefore the policy's modes
and the maximiser of Q_tot at once, over any product of sets of actions (docs/algorithms.md).
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from ..boxes import log_volume, to_box, to_unit, uniform
from ..config import Config, ConfigError, Hypers
from ..mixers import CentralMixer, make_mixer
from ..policies import sample, softmax_policy
from ..returns import lambda_return, masked_mean
from ..transforms import make_local, make_transform
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Params, TimeStep
from .actor import exploration_rate
from .agent import ActionValue, apply, each_sample, empty_step, make_agent_net, trim
from .learning import (
    first_temperature,
    new_learner,
    optimiser,
    soft_step,
    target_refresher,
)
from .losses import JointValues, q_tot_loss
from .value import Targets, split_params

sg = jax.lax.stop_gradient
NOT_ENUMERATING = {
    "transform": ("identity", "opt"),
    "weighting": ("uniform", "optimistic"),
    "fit": ("td",),
}


def make_value_continuous(config: Config, spec: EnvSpec) -> Algorithm:
    """Build the value learner that `config.algo` describes for actions in a box; losses as `make_value`'s.

    Raises ConfigError where a part needs an enumeration of the actions.
    """
    algo, soft = config.algo, config.algo.policy == "softmax"
    for key, able in NOT_ENUMERATING.items():
        if getattr(algo, key) not in able:
            raise ConfigError(f"algo.{key}={getattr(algo, key)}: needs discrete actions, not {spec.name}'s")
    agent = make_agent_net(config.net, spec, outputs=config.net.hidden)
    head = ActionValue(config.net.hidden)
    mixer, local, transform = make_mixer(algo), make_local(algo), make_transform(algo)
    central_mixer = CentralMixer(algo.central_embed)
    # Evenly spread, some of them clipped to the border; what a point stands for is sought through again.
    points = 1.15 * (2 * qmc.Halton(spec.action_dim, scramble=False).random(algo.proposals) - 1)
    closer = min(2.5 * algo.proposals ** (-1 / spec.action_dim), 0.7)
    log_density = float(np.log(algo.proposals)) - log_volume(spec)  # of a proposal of probability 1

    # -- values ------------------------------------------------------------------------------------

    def unroll(params: Params, batch: Batch) -> dict[str, jax.Array]:
        """What each network remembers at every instant, [T(+1), B, N, H]."""
        return {k: agent.unroll(p, batch) for k, p in params.items() if k in ("agent", "central_agent")}

    def value(params: Params, h: jax.Array, action: jax.Array) -> jax.Array:
        """Q_i of actions [..., N, d] or proposals [..., N, K, d], g_i not yet applied."""
        return apply(head, params, h[..., None, :] if action.ndim > h.ndim else h, to_unit(action, spec))

    def mixed(params: Params, h: dict, action: jax.Array, menu: jax.Array, state: jax.Array) -> jax.Array:
        """Q_tot(s, u); `menu` [..., N, K, d] is what the best actions are sought in besides u."""
        taken, others = (value(params["head"], h["agent"], x) for x in (action[..., None, :], menu))
        taken, others = (apply(local, params["local"], q, state) for q in (taken, others))
        best = jnp.maximum(others.max(-1), taken[..., 0])
        return apply(mixer, params["mixer"], taken[..., 0], best, to_unit(action, spec), state)

    def central(params: Params, h: dict, action: jax.Array, state: jax.Array) -> jax.Array:
        """Q^(s, u) of the unrestricted critic."""
        q = value(params["central_head"], h["central_agent"], action)
        return apply(central_mixer, params["central_mixer"], q, q, action, state)

    def logits(params: Params, h: dict, action: jax.Array, state: jax.Array) -> jax.Array:
        """OPT_i(Q_i(u), s) of proposals; no gradient reaches the utilities."""
        values = apply(local, params["local"], value(params["head"], h["agent"], action), state)
        return apply(transform, params["transform"], sg(values), state)

    def propose(key: jax.Array, lead: tuple[int, ...]) -> jax.Array:
        """[*lead, N, K, d]."""
        return uniform(key, (*lead, spec.n_agents, algo.proposals), spec)

    def policy(x: jax.Array, alpha: jax.Array):
        return softmax_policy(x / alpha, jnp.ones(x.shape, bool))

    # -- acting ------------------------------------------------------------------------------------

    def act(learner: Learner, carry, step: TimeStep, key, env_steps, hypers: Hypers):
        menu_key, key, random_key = jax.random.split(key, 3)
        hidden, h = agent.step(learner.params["agent"], carry, step)
        menu = propose(menu_key, (len(h),))
        if soft:
            x = logits(learner.params, {"agent": h}, menu, step.state)
            index = sample(key, policy(x, jnp.exp(learner.log_alpha)))
        else:
            explores = jax.random.uniform(random_key, h.shape[:-1]) < exploration_rate(hypers, env_steps)
            best = value(learner.params["head"], h, menu).argmax(-1)
            index = jnp.where(explores, 0, best)  # any proposal is a uniform draw
        action = take(menu, index)
        return (hidden, action), action

    def greedy(learner: Learner, carry, step: TimeStep):
        hidden, h = agent.step(learner.params["agent"], carry, step)
        action = best_action(learner.params, h)
        return (hidden, action), action

    def best_action(params: Params, h: jax.Array) -> jax.Array:
        """argmax_u Q_i(u): over all of the box, then around the best of them, closer and closer."""
        centre = jnp.zeros((*h.shape[:-1], spec.action_dim))
        for i in range(1 + algo.refinements):
            around = jnp.clip(centre[..., None, :] + closer**i * points, -1.0, 1.0)
            menu = jnp.concatenate([around, centre[..., None, :]], axis=-2)  # never worse than before
            centre = take(menu, value(params["head"], h, to_box(menu, spec)).argmax(-1))
        return to_box(centre, spec)

    # -- learning ----------------------------------------------------------------------------------

    def targets(learner: Learner, h: dict, menu: jax.Array, batch: Batch, key, hypers: Hypers) -> Targets:
        T, alpha, state = len(batch.reward), jnp.exp(learner.log_alpha), batch.steps.state
        pi = policy(logits(learner.params, h, menu, state), alpha)
        entropy = jnp.asarray(pi.entropy() - log_density).sum(-1)
        if spec.one_step:
            return Targets(batch.reward, jnp.broadcast_to(entropy, batch.reward.shape))
        if soft:
            index = sample(key, pi)
            drawn = -(jnp.asarray(pi.log_prob(index)) + log_density).sum(-1)
            bonuses = {"sample": drawn, "exact": entropy, "none": jnp.zeros_like(entropy)}
            bonus = alpha * bonuses[algo.entropy]
        else:
            index = value(learner.params["head"], h["agent"], menu).argmax(-1)
            bonus = jnp.zeros_like(entropy)
        action, memory = take(menu, index), unroll(learner.target, batch)
        if algo.central_critic:
            later = central(learner.target, memory, action, state)
        else:
            later = mixed(learner.target, memory, action, menu, state)
        outcome = (batch.reward, batch.discount, batch.mask)
        return Targets(lambda_return(*outcome, later, bonus, hypers.gamma, hypers.td_lambda), entropy[:T])

    def losses(h: dict, heads: Params, menu: jax.Array, batch: Batch, g: jax.Array, hypers: Hypers):
        T, mask, taken = len(batch.reward), batch.mask, batch.action
        h, menu, state = {k: x[:T] for k, x in h.items()}, menu[:T], batch.steps.state[:T]
        q_tot = mixed(heads, h, taken, menu, state)
        opt_sum = logits(heads, jax.tree.map(sg, h), taken[..., None, :], state)[..., 0].sum(-1)
        gap = sg(q_tot) - opt_sum
        values = JointValues(q_tot, q_tot, q_tot, q_tot, jnp.zeros_like(mask, bool), opt_sum)
        metrics = {
            "loss_opt": 0.5 * masked_mean(jnp.square(gap), mask),
            "loss_td": q_tot_loss(algo, values, g, mask, hypers),
            "q_tot": masked_mean(q_tot, mask),
            "target": masked_mean(g, mask),
            "delta_q": masked_mean(jnp.abs(gap), mask),
        }
        if algo.central_critic:
            q_hat = central(heads, h, taken, state)
            metrics["loss_central"] = 0.5 * masked_mean(jnp.square(q_hat - g), mask)
        return sum(metrics[k] for k in metrics if k.startswith("loss")), metrics

    def update(learner: Learner, batch: Batch, key, env_steps, hypers: Hypers):
        menu_key, key = jax.random.split(key)
        agents, heads = split_params(learner.params)
        batch = trim(batch, spec)
        menu = propose(menu_key, batch.first.shape)
        h, pull_back = jax.vjp(lambda p: unroll(p, batch), agents)
        goal = targets(learner, h, menu, batch, key, hypers)
        (d_h, d_heads), metrics = jax.grad(losses, argnums=(0, 1), has_aux=True)(
            h, heads, menu, batch, goal.q_tot, hypers
        )
        grads = {**pull_back(d_h)[0], **d_heads}
        tx = optimiser(algo.optimiser, hypers.lr, hypers, env_steps)
        entropy = masked_mean(goal.entropy, batch.mask)
        learner, taken = soft_step(algo, spec, learner, grads, tx, entropy, env_steps, hypers)
        return learner, metrics | taken

    # -- life cycle --------------------------------------------------------------------------------

    def init(key: jax.Array, hypers: Hypers) -> Learner:
        keys = iter(jax.random.split(key, 8))
        _, state, _, per_agent = empty_step(spec)
        action, q = jnp.zeros((1, spec.n_agents, spec.action_dim)), per_agent[..., None]
        h = jnp.zeros((1, spec.n_agents, config.net.hidden))
        params = {
            "agent": agent.init(next(keys)),
            "head": head.init(next(keys), h, action),
            "mixer": mixer.init(next(keys), per_agent, per_agent, action, state),
            "transform": transform.init(next(keys), q, state),
            "local": local.init(next(keys), q, state),
        }
        if algo.central_critic:
            params["central_agent"] = agent.init(next(keys))
            params["central_head"] = head.init(next(keys), h, action)
            params["central_mixer"] = central_mixer.init(next(keys), per_agent, per_agent, action, state)
        tx = optimiser(algo.optimiser, hypers.lr, hypers)
        return new_learner(params, params, tx, first_temperature(algo, hypers))

    def inspect(learner: Learner, batch: Batch) -> Inspection:
        T, batch = len(batch.reward), trim(batch, spec)
        h, state = {k: x[:T] for k, x in unroll(learner.params, batch).items()}, batch.steps.state[:T]
        best = best_action(learner.params, h["agent"])
        menu = best[..., None, :]
        q_tot, q_tot_best = (mixed(learner.params, h, u, menu, state) for u in (batch.action, best))
        return each_sample(Inspection(None, q_tot, q_tot_best, best, None, None), batch)

    return Algorithm(init, agent.carry, act, greedy, update, target_refresher(spec), inspect)


def take(menu: jax.Array, index: jax.Array) -> jax.Array:
    """The proposals [..., N, K, d] at `index` [..., N]: [..., N, d]."""
    return jnp.take_along_axis(menu, index[..., None, None], axis=-2)[..., 0, :]
