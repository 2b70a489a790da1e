"""What `value` and `value_continuous` share: their networks, their losses, and the optimiser's step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient

from ..config import Config
from ..networks.agents import AgentNet, example_inputs, make_agent_net
from ..networks.critics import ActionValue, CentralMixer
from ..networks.layers import apply
from ..networks.mixers import make_mixer
from ..networks.transforms import make_transform
from ..ops.batches import first_instants
from ..ops.gradient_share import GradientShare
from ..ops.losses import JointValues, q_tot_loss
from ..ops.means import masked_mean
from ..ops.optimisers import gradients_through, new_learner, optimiser, stepped
from ..ops.temperature import first_temperature, step_with_temperature
from ..types import Batch, EnvSpec, Learner, Metrics, Params

Outputs = dict[str, jax.Array]  # what agent networks give over a batch, by their names

# -- networks -------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """The networks of a member of the family; None for those that it does not have.

    Their weights have the same names in the learner's parameters. A central critic has an agent network
    too, "central_agent", and with continuous actions a head, "central_head".
    """

    spec: EnvSpec
    agent: (
        AgentNet  # observations -> q [..., N, A], utilities before g_i (continuous: memory h [..., N, H])
    )
    head: ActionValue | None  # with continuous actions: h, action -> q
    utility_transform: nn.Module  # g_i: order-preserving, applied before mixing
    mixer: nn.Module
    transform: nn.Module | None  # with a softmax policy: utilities -> policy logits
    central_mixer: nn.Module | None  # with a central critic


def make_parts(config: Config, spec: EnvSpec) -> Parts:
    """The networks that `config.algo` names, for environments of shape `spec`."""
    options, hidden, operands = config.algo, config.net.hidden, config.net.operands
    soft = options.policy == "softmax"
    return Parts(
        spec=spec,
        agent=make_agent_net(config.net, spec, outputs=hidden if spec.continuous else None),
        head=ActionValue(hidden, operands) if spec.continuous else None,
        utility_transform=make_transform(options.utility_transform, options, operands),
        mixer=make_mixer(options.mixer, options, operands),
        transform=make_transform(options.transform, options, operands) if soft else None,
        central_mixer=CentralMixer(options.central_embed, operands) if options.central_critic else None,
    )


def initial_params(parts: Parts, key: jax.Array) -> Params:
    """The weights of all parts; a part without weights (identity, VDN) has no entry."""
    spec, n, keys = parts.spec, parts.spec.n_agents, iter(jax.random.split(key, 8))
    state, taken = example_inputs(spec).state, jnp.zeros((1, n))
    q = jnp.zeros((1, n, 1 if spec.continuous else spec.n_actions))
    action = jnp.zeros((1, n, spec.action_dim)) if spec.continuous else q
    params = {"agent": parts.agent.init(next(keys))}
    if parts.head is not None:
        params["head"] = parts.head.init(next(keys), jnp.zeros((1, n, parts.head.hidden)), action)
    params["mixer"] = parts.mixer.init(next(keys), taken, state, q_max=taken, action=action)
    for name, module in (("transform", parts.transform), ("utility_transform", parts.utility_transform)):
        module_key = next(keys)
        params[name] = {} if module is None else module.init(module_key, q, state)
    if parts.central_mixer is not None:
        params["central_agent"] = parts.agent.init(next(keys))
        if parts.head is not None:
            h = jnp.zeros((1, n, parts.head.hidden))
            params["central_head"] = parts.head.init(next(keys), h, action)
        params["central_mixer"] = parts.central_mixer.init(next(keys), taken, state)
    return {name: weights for name, weights in params.items() if weights}


def split_params(params: Params) -> tuple[Params, Params]:
    """(the networks that are unrolled over time, the parts that are applied to their outputs)."""
    agents = {name: params[name] for name in ("agent", "central_agent") if name in params}
    return agents, {name: weights for name, weights in params.items() if name not in agents}


def target_names(params: Params) -> list[str]:
    """The parts that have target networks: those that the next value of a target is made of."""
    if "central_agent" in params:
        return [name for name in params if name.startswith("central_")]
    return [name for name in params if name != "transform"]


def apply_part(parts: Parts, name: str, params: Params, *args: jax.Array, **kwargs: jax.Array) -> jax.Array:
    """Apply the part called `name` to its entry of `params`; a part without weights has none."""
    return apply(getattr(parts, name), params.get(name, {}), *args, **kwargs)


# -- values ---------------------------------------------------------------------------------------


def unroll(parts: Parts, params: Params, batch: Batch) -> Outputs:
    """Outputs of every agent network in `params` over a batch, each [T or T + 1, B, N, A or H]."""
    return {name: parts.agent.unroll(weights, batch) for name, weights in split_params(params)[0].items()}


def transformed(parts: Parts, params: Params, q: jax.Array, state: jax.Array) -> jax.Array:
    """Utilities as they are mixed, g_i(q_i, s): q [..., N, A], state [..., G] -> [..., N, A]."""
    return apply_part(parts, "utility_transform", params, q, state)


def policy_logits(parts: Parts, params: Params, utilities: jax.Array, state: jax.Array) -> jax.Array:
    """OPT_i(sg Q_i, s), before division by the temperature (ME-IGM Eq. 2).

    utilities [..., N, A] after g_i, state [..., G] -> [..., N, A]. No gradient reaches the utilities.
    """
    return apply_part(parts, "transform", params, stop_gradient(utilities), state)


# -- targets and losses ---------------------------------------------------------------------------


class Targets(NamedTuple):
    """What the online networks are fitted to, and the entropy of the policy that it was computed with."""

    q_tot: jax.Array  # [T, B] lambda-return
    entropy: jax.Array | None  # [T or T + 1, B] joint entropy of the current policy; None without one


def entropy_bonus(rule: str, log_prob: jax.Array, entropy: jax.Array) -> jax.Array:
    """What alpha multiplies in the target, by the option `entropy`: sample, exact or none.

    log_prob (of the sampled joint action) and entropy (exact) are joint ones, of equal shapes.
    """
    return {"sample": -log_prob, "exact": entropy, "none": jnp.zeros_like(entropy)}[rule]


def opt_loss(values: JointValues, mask: jax.Array) -> jax.Array:
    """L(phi) = 1/2 mean of (sg Q_tot - sum_i OPT_i)^2 (ME-IGM Eq. 9); mask [T, B] -> []."""
    return 0.5 * masked_mean(jnp.square(stop_gradient(values.q_tot) - values.opt_sum), mask)


def central_loss(values: JointValues, g: jax.Array, mask: jax.Array) -> jax.Array:
    """L(psi) = 1/2 mean of (Q^ - G)^2 (Weighted QMIX's central critic); g, mask [T, B] -> []."""
    return 0.5 * masked_mean(jnp.square(values.q_hat - g), mask)


def losses(
    options: Any, values: JointValues, g: jax.Array, mask: jax.Array, hypers: Any
) -> tuple[jax.Array, Metrics]:
    """(the sum of the losses that `options` ask for, metrics); g (the target) and mask [T, B]."""
    total = q_tot_loss(options.fit, options.weighting, values, g, mask, hypers)
    metrics = {f"loss_{options.fit}": total}
    if options.policy == "softmax":
        loss = opt_loss(values, mask)
        total += loss
        metrics |= {"loss_opt": loss, "delta_q": masked_mean(jnp.abs(values.q_tot - values.opt_sum), mask)}
    if options.central_critic:
        loss = central_loss(values, g, mask)
        total += loss
        metrics |= {"loss_central": loss}
    return total, metrics | {"q_tot": masked_mean(values.q_tot, mask), "target": masked_mean(g, mask)}


# -- learners -------------------------------------------------------------------------------------


def first_learner(parts: Parts, options: Any, key: jax.Array, hypers: Any) -> Learner:
    """The learner before its first update; with a softmax policy it has a temperature."""
    params = initial_params(parts, key)
    temperature = first_temperature(options.temperature, hypers) if options.policy == "softmax" else None
    tx = optimiser(options.optimiser, hypers.lr, hypers)
    return new_learner(params, target_names(params), tx, temperature)


def learn(
    parts: Parts, options: Any, share: GradientShare,
    learner: Learner, batch: Batch, env_steps: jax.Array, hypers: Any,
    targets_of: Callable[[Outputs], Targets],
    values_of: Callable[[Params, Outputs], JointValues],
) -> tuple[Learner, Metrics]:  # fmt: skip
    """One gradient step of all parts together and, with a softmax policy, one step of its temperature.

    Args:
      targets_of: the outputs of `unroll` -> targets.
      values_of: parameters of the parts that are not unrolled, the outputs of `unroll` -> values.
    """

    def losses_of(outputs: Outputs, heads: Params, targets: Targets) -> tuple[jax.Array, Metrics]:
        return losses(options, values_of(heads, outputs), targets.q_tot, batch.mask, hypers)

    agents, heads = split_params(learner.params)
    grads, targets, metrics = gradients_through(
        lambda agents: unroll(parts, agents, batch), agents, heads, targets_of, losses_of
    )
    entropy = targets.entropy
    if entropy is not None:
        entropy = masked_mean(first_instants(entropy, len(batch.reward)), batch.mask)
    grads, metrics, entropy = share.merged((grads, metrics, entropy), batch.mask)
    learner, more = take_step(parts, options, learner, grads, entropy, env_steps, hypers)
    return learner, metrics | more


def take_step(
    parts: Parts, options: Any,
    learner: Learner, grads: Params, entropy: jax.Array | None, env_steps: jax.Array, hypers: Any,
) -> tuple[Learner, Metrics]:  # fmt: skip
    """One step of the optimiser and, given the mean joint entropy [] of a policy, of its temperature."""
    tx = optimiser(options.optimiser, hypers.lr, hypers, env_steps)
    if entropy is None:
        return stepped(learner, grads, tx), {"grad_norm": optax.global_norm(grads)}
    n_agents = parts.spec.n_agents
    return step_with_temperature(
        options.temperature, n_agents, learner, grads, tx, entropy, env_steps, hypers
    )
