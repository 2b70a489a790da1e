"""PAC (Zhou et al. 2022): Weighted QMIX with messages between the agents, and soft actors that need none.

While learning, each agent's utility reads messages from all agents. The messages are trained to help an
agent predict its counterfactual best action: the best one when the others do what is most probable for
them. The actors are improved against these utilities, and act on what they see alone.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ..config import Config, register_learner
from ..networks.actors import Actor, make_actor
from ..networks.agents import AgentNet, example_inputs, make_agent_net
from ..networks.critics import CentralMixer
from ..networks.layers import apply
from ..networks.messages import MessageNets, make_message_nets, unroll_messages
from ..networks.mixers import make_mixer
from ..ops.batches import first_instants
from ..ops.losses import JointValues, q_tot_loss
from ..ops.means import masked_mean
from ..ops.optimisers import actor_critic_optimiser, gradients_through, new_learner
from ..ops.policies import categorical, chosen, epsilon_greedy, greedy_action, masked
from ..ops.returns import batch_return
from ..ops.schedules import exploration_rate
from ..ops.target_networks import refresh_targets
from ..ops.temperature import first_temperature, step_with_temperature
from ..types import Algorithm, Batch, Carry, EnvSpec, Inspection, Learner, Metrics, Params, TimeStep
from .pac_options import PacHypers, PacOptions

UNROLLED = ("actor", "agent", "encoder", "predictor", "central_agent")
HEADS = ("mixer", "central_mixer")
GROUPS = {name: "actor" if name == "actor" else "critic" for name in (*UNROLLED, *HEADS)}


class PacNets(NamedTuple):
    """The networks, named as their parameters are; those of the messages lie beside the others."""

    actor: Actor  # reads no messages
    messages: MessageNets
    central_agent: AgentNet  # utilities of the central critic
    mixer: nn.Module
    central_mixer: CentralMixer


class Targets(NamedTuple):
    """What the networks are fitted to."""

    q_tot: jax.Array  # [T, B] lambda-return
    label: jax.Array  # [T, B or 1, N] counterfactual best actions
    best: jax.Array  # [T, B or 1, N] the policies' most probable actions


# -- values ---------------------------------------------------------------------------------------


def unroll(nets: PacNets, params: Params, batch: Batch, noise: jax.Array | float) -> dict[str, jax.Array]:
    """Outputs of the networks over time, by name; the actor's are log pi, `noise` is added to messages."""
    return {
        "actor": nets.actor.policy(params["actor"], batch).logits,
        **unroll_messages(nets.messages, params, batch, noise),
        "central_agent": nets.central_agent.unroll(params["central_agent"], batch),
    }


def mix(nets: PacNets, params: Params, q: jax.Array, state: jax.Array) -> jax.Array:
    """f(q, s), the mixer of one value for each agent, [..., N] -> [...]."""
    return apply(nets.mixer, params["mixer"], q, state)


def mix_central(nets: PacNets, params: Params, q: jax.Array, state: jax.Array) -> jax.Array:
    """Q^ of the central critic from one of its utilities for each agent, [..., N] -> [...]."""
    return apply(nets.central_mixer, params["central_mixer"], q, state)


def counterfactual_actions(
    nets: PacNets, params: Params, q: jax.Array, best: jax.Array, steps: TimeStep
) -> jax.Array:
    """u*_i = argmax_a Q^(s, a, best_-i) over the available a: each agent's best action beside the others'.

    Args:
      q: utilities of the central critic, [..., N, A].
      best: the actions that the other agents keep, [..., N].

    Returns: [..., N].
    """
    n, kept = q.shape[-2], chosen(q, best)

    def values(i: jax.Array) -> jax.Array:
        """Q^(s, a, best_-i) of every action a of agent i, [..., A]."""
        joint = jnp.where(jnp.arange(n) == i, q[..., i, :, None], kept[..., None, :])
        return mix_central(nets, params, joint, steps.state[..., None, :])

    # One agent after the other: all at once are N x A joint actions wide.
    each = jax.lax.map(values, jnp.arange(n))
    return greedy_action(jnp.moveaxis(each, 0, -2), steps.avail)


# -- targets and losses ---------------------------------------------------------------------------


def pac_targets(nets: PacNets, learner: Learner, out: dict, batch: Batch, hypers: PacHypers) -> Targets:
    """Lambda-returns of Q^-(s', a*') with a* = (argmax_a pi_i)_i, and labels; `out` comes from `unroll`."""
    T, best = len(batch.reward), out["actor"].argmax(-1)
    now, q_now = first_instants((batch.steps, out["central_agent"]), T)
    q = nets.central_agent.unroll(learner.target["central_agent"], batch)
    value = mix_central(nets, learner.target, chosen(q, best), batch.steps.state)
    return Targets(
        q_tot=batch_return(batch, value, hypers),
        label=counterfactual_actions(nets, learner.params, q_now, best[:T], now),
        best=best[:T],
    )


def joint_values(nets: PacNets, heads: Params, out: dict, batch: Batch, best: jax.Array) -> JointValues:
    """Q_tot and Q^ of the batch's joint actions and of `best` [T, B or 1, N]."""
    actions, state = (batch.action, best), batch.steps.state[: len(batch.reward)]
    q_tot, q_tot_best = (mix(nets, heads, chosen(out["agent"], u), state) for u in actions)
    q_hat, q_hat_best = (mix_central(nets, heads, chosen(out["central_agent"], u), state) for u in actions)
    is_best = (batch.action == best).all(-1)
    return JointValues(
        q_tot=q_tot,
        q_tot_best=q_tot_best,
        q_hat=q_hat,
        q_hat_best=q_hat_best,
        is_best=is_best,
        opt_sum=q_tot,
    )


def actor_loss(nets: PacNets, heads: Params, out: dict, alpha: jax.Array, state: jax.Array) -> jax.Array:
    """L(phi) = sg f(E_pi[alpha log pi_i - sg Q_i(o_i, m_i)], s), [T, B]; f: the mixer of Q_tot."""
    cost = (jnp.exp(out["actor"]) * (alpha * out["actor"] - stop_gradient(out["agent"]))).sum(-1)
    return mix(nets, stop_gradient(heads), cost, state)


def pac_losses(
    nets: PacNets, out: dict, heads: Params, targets: Targets, batch: Batch, alpha: jax.Array,
    weighting: str, hypers: PacHypers,
) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:  # fmt: skip
    """(L(theta) + L(psi) + L(phi) + c L(xi), (metrics, joint entropy)), means over real transitions:

        L(theta) = 1/2 w (Q_tot(s, u, m) - G)^2                  w: `losses.td_weights`
        L(psi)   = 1/2 (Q^(s, u) - G)^2
        L(xi)    = sum_i [-log p(u*_i | o_i, m_i) + beta KL(N(mu_i, 1) || N(0, 1))]
        L(phi)   = `actor_loss`

    c and beta are hypers.message_weight and hypers.message_beta; p is the predictor, mu the encoder.
    """
    T, mask, out = len(batch.reward), batch.mask, first_instants(out, len(batch.reward))
    steps = first_instants(batch.steps, T)
    values = joint_values(nets, heads, out, batch, targets.best)
    log_p = chosen(nn.log_softmax(masked(out["predictor"], steps.avail)), targets.label)
    metrics = {
        "loss_critic": q_tot_loss("td", weighting, values, targets.q_tot, mask, hypers),
        "loss_central": 0.5 * masked_mean(jnp.square(values.q_hat - targets.q_tot), mask),
        "loss_actor": masked_mean(actor_loss(nets, heads, out, alpha, steps.state), mask),
        "loss_label": -masked_mean(log_p.sum(-1), mask),
        "message_nats": 0.5 * masked_mean(jnp.square(out["encoder"]).sum((-2, -1)), mask),
        "q_tot": masked_mean(values.q_tot, mask),
        "target": masked_mean(targets.q_tot, mask),
    }
    messages = metrics["loss_label"] + hypers.message_beta * metrics["message_nats"]
    fit = metrics["loss_critic"] + metrics["loss_central"] + metrics["loss_actor"]
    entropy = masked_mean(categorical(out["actor"]).entropy().sum(-1), mask)
    return fit + hypers.message_weight * messages, (metrics, entropy)


def update(
    nets: PacNets, options: PacOptions, learner: Learner, batch: Batch, key: jax.Array, env_steps,
    hypers: PacHypers,
) -> tuple[Learner, Metrics]:  # fmt: skip
    """One gradient step of all networks, and one step of the temperature."""
    unrolled, heads = ({k: learner.params[k] for k in names} for names in (UNROLLED, HEADS))
    N, A, alpha = batch.action.shape[2], batch.steps.avail.shape[-1], floored_temperature(learner, hypers)
    # Every sample has random messages, also when all samples share their instant.
    noise = jax.random.normal(key, (len(batch.first), batch.reward.shape[1], N, N * options.message))
    grads, _, (metrics, entropy) = gradients_through(
        lambda params: unroll(nets, params, batch, noise),
        unrolled,
        heads,
        lambda out: pac_targets(nets, learner, out, batch, hypers),
        lambda out, heads, targets: pac_losses(
            nets, out, heads, targets, batch, alpha, options.weighting, hypers
        ),
    )
    tx = actor_critic_optimiser(options.optimiser, GROUPS, hypers, env_steps)
    learner, step_metrics = step_with_temperature(
        options.temperature, N, learner, grads, tx, entropy, env_steps, hypers,
        target_entropy=-A if options.target_entropy == "actions" else None,
    )  # fmt: skip
    return learner, metrics | step_metrics | {"alpha": alpha}


def floored_temperature(learner: Learner, hypers: PacHypers) -> jax.Array:
    """alpha, at least hypers.alpha_end; a learned temperature moves on below its floor."""
    return jnp.maximum(jnp.exp(learner.log_alpha), hypers.alpha_end)


# -- the learner ----------------------------------------------------------------------------------


def act(nets: PacNets, learner: Learner, carry: Carry, step: TimeStep, key, env_steps, hypers: PacHypers):
    """Exploring actions: epsilon-greedy around each policy's most probable action."""
    (memory, _), best = nets.actor.greedy(learner, carry, step)
    onehot = jax.nn.one_hot(best, step.avail.shape[-1])
    action = epsilon_greedy(key, onehot, step.avail, exploration_rate(hypers, env_steps))
    return (memory, action), action


def first_learner(
    nets: PacNets, spec: EnvSpec, options: PacOptions, key: jax.Array, hypers: PacHypers
) -> Learner:
    """The learner before its first update."""
    keys = dict(zip(GROUPS, jax.random.split(key, len(GROUPS)), strict=True))
    utilities, state = jnp.zeros((1, spec.n_agents)), example_inputs(spec).state
    unrolled = nets._asdict() | nets.messages._asdict()
    params = {name: unrolled[name].init(keys[name]) for name in UNROLLED}
    params |= {name: getattr(nets, name).init(keys[name], utilities, state) for name in HEADS}
    tx = actor_critic_optimiser(options.optimiser, GROUPS, hypers)
    temperature = first_temperature(options.temperature, hypers)
    return new_learner(params, ("central_agent", "central_mixer"), tx, temperature)


def inspect(nets: PacNets, learner: Learner, batch: Batch) -> Inspection:
    """What the learner believes about a batch, with messages without noise."""
    out = first_instants(unroll(nets, learner.params, batch, 0.0), len(batch.reward))
    best = out["actor"].argmax(-1)
    values = joint_values(nets, learner.params, out, batch, best)
    return Inspection(
        greedy=best,
        q=out["agent"],
        q_tot=values.q_tot,
        q_tot_greedy=values.q_tot_best,
        logits=out["actor"],
        probs=jnp.exp(out["actor"]),
    )


@register_learner("pac", options=PacOptions, hypers=PacHypers, shared_instants=True)
def make_pac(config: Config, spec: EnvSpec) -> Algorithm:
    """PAC for environments of shape `spec`."""
    net, options = config.net, config.algo
    nets = PacNets(
        actor=make_actor(net, spec),
        messages=make_message_nets(net, spec, options.message),
        central_agent=make_agent_net(net, spec),
        mixer=make_mixer(options.mixer, options, net.operands),
        central_mixer=CentralMixer(options.central_embed, net.operands),
    )
    return Algorithm(
        init=partial(first_learner, nets, spec, options),
        carry=nets.actor.carry,
        act=partial(act, nets),
        greedy=nets.actor.greedy,
        update=partial(update, nets, options),
        inspect=partial(inspect, nets),
        refresh_target=refresh_targets,
        target_interval=options.target_interval,
    )
