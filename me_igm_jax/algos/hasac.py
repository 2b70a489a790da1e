"""HASAC (Liu et al. 2024): one soft actor per agent, improved one after the other under two joint critics.

Heterogeneous-agent soft actor-critic for discrete actions. Its losses are means over the real transitions
(the actors': over those in which the agent lives):

    critics  1/2 sum_k (Q_k(s, u) - G)^2      k = 1, 2; G the n-step return of
             V(s) = min_k Q^-_k(s, a) - alpha_c sum_i log pi_i(a_i),                 a ~ pi
    actor    alpha_i log pi_i(a_i) - min_k Q_k(s, a_i, a_-i),                        a ~ pi
    alphas   alpha_i (H(pi_i) - H_i),   alpha_c sum_i (H(pi_i) - H_i)

The actors learn in random order. Each learns beside the actions a_-i, which the new policies of the actors
before it chose; the gradient reaches its policy through `straight_through`. log_alpha is [alpha_1 ..
alpha_N, alpha_c]. The target critics move at every gradient step. Two things differ from the released code
(HARL): the temperatures follow exact entropies, and means over the life of an agent; there they follow
samples, and means over all transitions.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient

from ..config import Config, register_learner
from ..networks.actors import Actor, make_actor
from ..networks.agents import example_inputs
from ..networks.layers import MLP, apply, concat
from ..ops.batches import first_instants
from ..ops.means import masked_mean
from ..ops.optimisers import optimiser
from ..ops.policies import categorical, greedy_action, sample
from ..ops.returns import n_step_return
from ..ops.target_networks import moved_towards
from ..ops.temperature import first_temperature, next_temperature
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Metrics, Params
from .hasac_options import HasacHypers, HasacOptions


class Parts(NamedTuple):
    """HASAC's choices and networks."""

    options: HasacOptions
    spec: EnvSpec
    team: Actor  # all agents' policies
    single: Actor  # the policy of one agent; its parameters have an agents' axis of length 1
    critic: MLP  # Q_k(s, u)


class Step(NamedTuple):
    """Networks after a gradient step, and what it reported; for actors stacked [N, ...]."""

    params: Params
    opt_state: optax.OptState
    loss: jax.Array
    grad_norm: jax.Array


@register_learner("hasac", options=HasacOptions, hypers=HasacHypers, shared_instants=True)
def make_hasac(config: Config, spec: EnvSpec) -> Algorithm:
    """Build HASAC for environments of shape `spec`; `config.net` describes the network of every agent."""
    width = config.algo.critic_hidden
    parts = Parts(
        options=config.algo,
        spec=spec,
        team=make_actor(config.net, spec),
        single=make_actor(config.net, spec._replace(n_agents=1)),
        critic=MLP((width, width, 1), config.net.operands),
    )
    return Algorithm(
        init=partial(init, parts), carry=parts.team.carry,
        act=parts.team.act, greedy=parts.team.greedy,
        update=partial(update, parts), inspect=partial(inspect, parts),
    )  # fmt: skip


# -- policies and values; joint actions are one-hot -----------------------------------------------


def log_policy(actor: Actor, params: Params, batch: Batch) -> jax.Array:
    """log pi of all actions, [I, B, N, A], also when the sequences of a batch share their instants."""
    logits = jnp.asarray(actor.policy(params, batch).logits)
    return jnp.broadcast_to(logits, (len(logits), batch.reward.shape[1], *logits.shape[2:]))


def sampled(key: jax.Array, log_pi: jax.Array) -> jax.Array:
    """Actions of policies, one-hot: log_pi [..., A] -> [..., A]."""
    return jax.nn.one_hot(sample(key, categorical(log_pi)), log_pi.shape[-1])


def straight_through(key: jax.Array, log_pi: jax.Array) -> jax.Array:
    """One-hot actions whose gradient is that of softmax(log pi + Gumbel noise) (Jang et al. 2017)."""
    soft = jax.nn.softmax(log_pi + jax.random.gumbel(key, log_pi.shape))
    hard = jax.nn.one_hot(soft.argmax(-1), soft.shape[-1])
    return soft + stop_gradient(hard - soft)


def joint_values(critic: MLP, params: Params, state: jax.Array, joint: jax.Array) -> jax.Array:
    """Q_k(s, u) of both critics: state [T, B, G], joint actions [T, B, N, A] -> [2, T, B]."""
    x = concat(state, joint.reshape(*joint.shape[:-2], -1))
    return jax.vmap(lambda p: apply(critic, p, x)[..., 0])(params)


# -- critics --------------------------------------------------------------------------------------


def critic_targets(
    parts: Parts, target: Params, log_pi: jax.Array, batch: Batch, key: jax.Array, alpha: jax.Array, hypers
) -> jax.Array:
    """G, [T, B]: log_pi [I, B, N, A] of the current policies, alpha [] the critics' temperature."""
    joint = sampled(key, log_pi)
    value = joint_values(parts.critic, target["critic"], batch.steps.state, joint).min(0)
    value -= alpha * (log_pi * joint).sum((-2, -1))
    outcome, traces = (batch.reward, batch.discount, batch.mask), jnp.ones_like(batch.mask)
    return n_step_return(*outcome, value, value, traces, hypers.gamma, parts.options.n_step)


def critic_loss(
    parts: Parts, params: Params, batch: Batch, targets: jax.Array, hypers: Any
) -> tuple[jax.Array, jax.Array]:
    """(the sum of both critics' losses, the mean of the smaller values); targets [T, B]."""
    joint = jax.nn.one_hot(batch.action, parts.spec.n_actions)
    q = joint_values(parts.critic, params, batch.steps.state, joint)
    error = q - targets
    huber = parts.options.huber
    loss = optax.huber_loss(error, delta=hypers.huber_delta) if huber else 0.5 * jnp.square(error)
    return masked_mean(loss.sum(0), batch.mask), masked_mean(q.min(0), batch.mask)


def improve_critics(
    parts: Parts, learner: Learner, batch: Batch, targets: jax.Array, env_steps, hypers
) -> tuple[Step, jax.Array]:
    """(one gradient step of both critics towards targets [T, B], the mean of their smaller values)."""
    params, opt_state = learner.params["critic"], learner.opt_state["critic"]
    gradient = jax.value_and_grad(partial(critic_loss, parts), has_aux=True)
    (loss, q_tot), grads = gradient(params, batch, targets, hypers)
    tx = optimiser(parts.options.optimiser, hypers.critic_lr, hypers, env_steps)
    return step_down(tx, params, opt_state, loss, grads), q_tot


def step_down(tx: optax.GradientTransformation, params: Params, opt_state, loss, grads: Params) -> Step:
    """One step of the optimiser `tx` down the gradient of `loss`."""
    step, opt_state = tx.update(grads, opt_state, params)
    params, norm = optax.apply_updates(params, step), optax.global_norm(grads)
    return Step(params=params, opt_state=opt_state, loss=loss, grad_norm=norm)


# -- actors ---------------------------------------------------------------------------------------


def only(batch: Batch, i: jax.Array) -> Batch:
    """What agent i sees, may do and does, as a batch of one agent."""

    def pick(x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, i, 1, axis=2)

    own = {field: pick(getattr(batch.steps, field)) for field in ("obs", "avail", "alive")}
    return batch._replace(steps=batch.steps._replace(**own), action=pick(batch.action))


def with_action(joint: jax.Array, i: jax.Array, action: jax.Array) -> jax.Array:
    """`joint` [..., N, A] with the action [..., 1, A] of agent i in it."""
    return jnp.where(jnp.arange(joint.shape[-2])[:, None] == i, action, joint)


def agent_log_policy(parts: Parts, params: Params, batch: Batch, i: jax.Array) -> jax.Array:
    """log pi_i of all actions, [T, B, 1, A]; `params` are those of agent i alone."""
    return log_policy(parts.single, jax.tree.map(lambda x: x[None], params), only(batch, i))


def actor_loss(
    parts: Parts, params: Params, critics: Params, batch: Batch, i: jax.Array, joint: jax.Array, alpha, key
) -> jax.Array:
    """alpha_i log pi_i(a_i) - min_k Q_k(s, a_i, a_-i), the mean while agent i lives.

    `joint` [T, B, N, A] holds a_-i; its entry i is not read. `params` are those of agent i alone.
    """
    log_pi = agent_log_policy(parts, params, batch, i)
    action = straight_through(key, log_pi)
    q = joint_values(parts.critic, critics, batch.steps.state, with_action(joint, i, action)).min(0)
    loss = alpha * (action * log_pi).sum((-2, -1)) - q
    return masked_mean(loss, batch.mask * jnp.take(batch.steps.alive, i, axis=-1))


def improve_actors(
    parts: Parts, learner: Learner, critics: Params, log_pi: jax.Array, batch: Batch, key, env_steps, hypers
) -> Step:
    """One gradient step of every actor, in random order; the result is in the order of the agents."""
    order_key, joint_key, turns_key = jax.random.split(key, 3)
    order = jax.random.permutation(order_key, parts.spec.n_agents)
    tx = optimiser(parts.options.optimiser, hypers.lr, hypers, env_steps)
    gradient = jax.value_and_grad(partial(actor_loss, parts))

    def turn(joint: jax.Array, given):
        i, params, opt_state, alpha, turn_key = given
        noise_key, action_key = jax.random.split(turn_key)
        loss, grads = gradient(params, critics, batch, i, joint, alpha, noise_key)
        after = step_down(tx, params, opt_state, loss, grads)
        action = sampled(action_key, agent_log_policy(parts, after.params, batch, i))
        return with_action(joint, i, action), after

    each = (learner.params["actor"], learner.opt_state["actor"], learner.log_alpha[:-1])
    params, opt_state, log_alpha = jax.tree.map(lambda x: x[order], each)
    turns = (order, params, opt_state, jnp.exp(log_alpha), jax.random.split(turns_key, len(order)))
    steps = jax.lax.scan(turn, sampled(joint_key, log_pi), turns)[1]
    return jax.tree.map(lambda x: x[jnp.argsort(order)], steps)


# -- temperatures, and the learner ----------------------------------------------------------------


def target_entropies(parts: Parts, avail: jax.Array, hypers: Any) -> jax.Array:
    """H_i, [T, B, N], of available actions [T, B, N, A]."""
    rule, shape = parts.options.target_entropy, avail.shape[:-1]
    if rule == "zero":
        return jnp.zeros(shape)
    count = avail.sum(-1) if rule == "available" else jnp.full(shape, parts.spec.n_actions)
    return hypers.entropy_share * jnp.log(count)


def means_over_lives(x: jax.Array, alive: jax.Array, mask: jax.Array) -> jax.Array:
    """Means [N + 1] of x [T, B, N]: for each agent while it lives, then of the sum over the living."""
    living = alive * mask[..., None]
    each = jax.vmap(masked_mean, in_axes=-1)(jnp.broadcast_to(x, living.shape), living)
    return jnp.append(each, masked_mean((x * living).sum(-1), mask))


def init(parts: Parts, key: jax.Array, hypers: Any) -> Learner:
    """The learner before its first update."""
    actor_key, critic_key = jax.random.split(key)
    options, N = parts.options, parts.spec.n_agents
    x = concat(example_inputs(parts.spec).state, jnp.zeros((1, N * parts.spec.n_actions)))
    actors = parts.team.init(actor_key)
    critics = jax.vmap(lambda k: parts.critic.init(k, x))(jax.random.split(critic_key))
    tx = optimiser(options.optimiser, hypers.lr, hypers)
    log_alpha, alpha_opt_state = first_temperature(options.temperature, hypers, shape=(N + 1,))
    return Learner(
        params={"actor": actors, "critic": critics},
        target={"critic": critics},
        opt_state={"actor": jax.vmap(tx.init)(actors), "critic": tx.init(critics)},
        log_alpha=log_alpha,
        alpha_opt_state=alpha_opt_state,
        updates=jnp.zeros((), jnp.int32),
    )


def update(parts: Parts, learner: Learner, batch: Batch, key, env_steps, hypers) -> tuple[Learner, Metrics]:
    """One gradient step of the critics, then of every actor; one of the temperatures; targets follow."""
    T, N, alpha = len(batch.reward), parts.spec.n_agents, jnp.exp(learner.log_alpha)
    target_key, actors_key = jax.random.split(key)
    log_pi = log_policy(parts.team, learner.params["actor"], batch)
    targets = critic_targets(parts, learner.target, log_pi, batch, target_key, alpha[N], hypers)
    log_pi, batch = log_pi[:T], before_acting(batch)
    critics, q_tot = improve_critics(parts, learner, batch, targets, env_steps, hypers)
    actors = improve_actors(parts, learner, critics.params, log_pi, batch, actors_key, env_steps, hypers)
    entropies = -(jnp.exp(log_pi) * log_pi).sum(-1), target_entropies(parts, batch.steps.avail, hypers)
    entropy, wanted = (means_over_lives(x, batch.steps.alive, batch.mask) for x in entropies)
    rule = parts.options.temperature
    log_alpha, alpha_opt_state = next_temperature(rule, learner, entropy, wanted, env_steps, hypers)
    metrics = {
        "loss_actor": actors.loss.mean(),
        "loss_critic": critics.loss,
        "q_tot": q_tot,
        "target": masked_mean(targets, batch.mask),
        "entropy": entropy[N] / N,
        "alpha": alpha[:N].mean(),
        "alpha_critic": alpha[N],
        "grad_norm": optax.global_norm((critics.grad_norm, actors.grad_norm)),
    }
    after = learner._replace(
        params={"actor": actors.params, "critic": critics.params},
        target={"critic": moved_towards(learner.target["critic"], critics.params, True, hypers.tau)},
        opt_state={"actor": actors.opt_state, "critic": critics.opt_state},
        log_alpha=log_alpha,
        alpha_opt_state=alpha_opt_state,
        updates=learner.updates + 1,
    )
    return after, metrics


def before_acting(batch: Batch) -> Batch:
    """`batch` with the instants at which the agents acted, and no final one."""
    steps, first = first_instants((batch.steps, batch.first), len(batch.reward))
    return batch._replace(steps=steps, first=first)


def inspect(parts: Parts, learner: Learner, batch: Batch) -> Inspection:
    """What the current networks believe; of both critics the smaller values."""
    batch = before_acting(batch)
    log_pi = log_policy(parts.team, learner.params["actor"], batch)
    greedy = greedy_action(log_pi, batch.steps.avail)

    def q(action: jax.Array) -> jax.Array:
        joint = jax.nn.one_hot(action, parts.spec.n_actions)
        return joint_values(parts.critic, learner.params["critic"], batch.steps.state, joint).min(0)

    return Inspection(
        greedy=greedy, q_tot=q(batch.action), q_tot_greedy=q(greedy), logits=log_pi, probs=jnp.exp(log_pi),
    )  # fmt: skip
