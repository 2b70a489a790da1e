"""DOP, stochastic (Wang et al. 2021): actor-critic with a critic that is a sum over the agents.

The critic is linear in the agents' values. So its expectation over joint actions is a sum over the agents:
tree backups can teach it from replay, and every agent's policy gradient reads one term of the sum.

Three things differ from the released code (docs/algorithms.md). One gradient of all losses makes one step;
the released code takes a critic step for every time index. The actor is improved against the critic before
that step; the released code trains the critic first. The floor of the exploring policy spreads over the
available actions; the released code spreads it over all actions and renormalises.
"""

import dataclasses
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient

from ..config import Config, Hypers, hypers, option, register_learner
from ..config.hypers import CriticRate, Epsilon, LearningRate, TargetRate, TdLambda
from ..networks.actors import Actor, make_actor
from ..networks.agents import agent_inputs, example_inputs
from ..networks.critics import AgentCritic, PositiveSum
from ..networks.layers import apply
from ..ops.batches import first_instants, take_sequences
from ..ops.means import masked_mean
from ..ops.optimisers import actor_critic_optimiser, gradients_through, new_learner, stepped
from ..ops.policies import Categorical, categorical, chosen, floored
from ..ops.returns import batch_return, n_step_return
from ..ops.schedules import exploration_rate
from ..ops.target_networks import refresh_targets
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Metrics, Params, TimeStep

GROUPS = {"actor": "actor", "critic": "critic", "mixer": "critic"}


@dataclasses.dataclass(frozen=True)
class DopOptions:
    """Options of stochastic DOP."""

    form: Literal["paper", "released"] = option(
        "paper", "Q_tot = sum_i k_i Q_i + b (paper), or with k_i that sum to one and no b (released code)."
    )
    critic_hidden: int = option(256, "Width of the critics' two hidden layers.", low=1)
    mixing_embed: int = option(32, "Columns of the matrix W(s) in k = |W(s)| |w(s)|.", low=1)
    tree_steps: int = option(5, "Steps of the off-policy tree-backup targets.", low=1)
    target_interval: int = option(200, "Episodes between two refreshes of the target networks.", low=1)
    optimiser: Literal["adam", "rmsprop"] = option(
        "adam", "What turns gradients into steps: Adam, or PyTorch's RMSprop with decay 0.99."
    )


@hypers
class DopHypers(LearningRate, CriticRate, TdLambda, TargetRate, Epsilon, Hypers):
    """Hyperparameters of stochastic DOP. Epsilon is a floor under the policy that collects."""

    trace: float = option(0.93, "Decay of the tree-backup traces, beside the probabilities.", low=0, high=1)
    off_policy: float = option(
        0.5,
        "Share kappa of the tree-backup loss in the critic's loss; the rest is on-policy.",
        low=0,
        high=1,
    )


class DopNets(NamedTuple):
    """The networks, named as their parameters are."""

    actor: Actor
    critic: AgentCritic
    mixer: PositiveSum


class DecomposedValues(NamedTuple):
    """The critic at some instants: Q_tot(s, u) = sum_i k_i(s) Q_i(s, o_i, u_i) + b(s)."""

    q: jax.Array  # [..., N, A] Q_i
    k: jax.Array  # [..., N]
    b: jax.Array  # [...]

    def q_tot(self, action: jax.Array) -> jax.Array:
        """Q_tot(s, u), u [..., N] -> [...]."""
        return (self.k * chosen(self.q, action)).sum(-1) + self.b

    def expected(self, probs: jax.Array) -> jax.Array:
        """E_pi[Q_tot] = sum_i k_i E_pi_i[Q_i] + b, [..., N, A] -> [...]."""
        return (self.k * (probs * self.q).sum(-1)).sum(-1) + self.b

    def advantage(self, action: jax.Array, probs: jax.Array) -> jax.Array:
        """k_i (Q_i(u_i) - E_pi_i[Q_i]), what agent i's action adds to Q_tot, [..., N]."""
        return self.k * (chosen(self.q, action) - (probs * self.q).sum(-1))


class Targets(NamedTuple):
    """What Q_tot is fitted to."""

    fresh: jax.Array  # [T, F] of the F fresh sequences
    replayed: jax.Array  # [T, R] of the R replayed sequences


def critic_values(nets: DopNets, params: Params, steps: TimeStep) -> DecomposedValues:
    """The critic at the instants `steps`."""
    inputs = agent_inputs(steps, last_action=None, use_id=True)
    q = apply(nets.critic, params["critic"], steps.state, inputs)
    k, b = apply(nets.mixer, params["mixer"], steps.state)
    return DecomposedValues(q, k, b)


def collecting_policy(nets: DopNets, params: Params, batch: Batch, eps: jax.Array) -> Categorical:
    """pi with the floor that it explores by, [T or T + 1, B, N, A]: it is also evaluated and improved."""
    return floored(nets.actor.policy(params["actor"], batch), batch.steps.avail, eps)


def on_policy_targets(
    nets: DopNets, target: Params, batch: Batch, probs: jax.Array, hypers: DopHypers
) -> jax.Array:
    """Lambda-returns of E_pi[Q^-_tot] with pi = `probs` [T or T + 1, B, N, A] -> [T, B]."""
    return batch_return(batch, critic_values(nets, target, batch.steps).expected(probs), hypers)


def tree_backup_targets(
    nets: DopNets, target: Params, batch: Batch, probs: jax.Array, steps: int, hypers: DopHypers
) -> jax.Array:
    """`steps` steps of tree backup (Eq. 9) of Q^-_tot with pi = `probs` [T or T + 1, B, N, A] -> [T, B].

    The traces are hypers.trace times the probability of the joint action that was taken.
    """
    T, values = len(batch.reward), critic_values(nets, target, batch.steps)
    q_tot = first_instants(values, T).q_tot(batch.action)
    trace = hypers.trace * chosen(probs[:T], batch.action).prod(-1)
    outcome = batch.reward, batch.discount, batch.mask
    return n_step_return(*outcome, q_tot, values.expected(probs), trace, hypers.gamma, steps)


def dop_losses(
    nets: DopNets, log_probs: jax.Array, heads: Params, targets: Targets, fresh: Batch, replayed: Batch,
    hypers: DopHypers,
) -> tuple[jax.Array, Metrics]:  # fmt: skip
    """(L(critic) + L(actor), metrics), means over real transitions and, in L(actor), living agents:

        L(critic) = kappa E_off[(Q_tot(s, u) - G_tree)^2] + (1 - kappa) E_on[(Q_tot(s, u) - G_lambda)^2]
        L(actor)  = -E_on[k_i(s) (Q_i(u_i) - E_pi_i[Q_i]) log pi_i(u_i)]                              (6)

    Args:
      log_probs: log pi of the fresh sequences, [T or T + 1, F, N, A].
      heads: parameters of the critic and of the mixer.
    """
    T, log_probs = len(fresh.reward), log_probs[: len(fresh.reward)]
    on, off = (critic_values(nets, heads, first_instants(x.steps, T)) for x in (fresh, replayed))
    on_q, off_q = on.q_tot(fresh.action), off.q_tot(replayed.action)
    loss_td = masked_mean(jnp.square(on_q - targets.fresh), fresh.mask)
    loss_tree = masked_mean(jnp.square(off_q - targets.replayed), replayed.mask)
    loss_critic = hypers.off_policy * loss_tree + (1 - hypers.off_policy) * loss_td
    advantage = stop_gradient(on.advantage(fresh.action, jnp.exp(log_probs)))
    alive = fresh.steps.alive[:T] * fresh.mask[..., None]
    loss_actor = -masked_mean(advantage * chosen(log_probs, fresh.action), alive)
    mask = jnp.concatenate([fresh.mask, replayed.mask], axis=1)
    metrics = {
        "loss_actor": loss_actor,
        "loss_critic": loss_critic,
        "loss_td": loss_td,
        "loss_tree": loss_tree,
        "q_tot": masked_mean(jnp.concatenate([on_q, off_q], axis=1), mask),
        "target": masked_mean(jnp.concatenate(targets, axis=1), mask),
        "entropy": masked_mean(categorical(log_probs).entropy().mean(-1), fresh.mask),
    }
    return loss_actor + loss_critic, metrics


def update(
    nets: DopNets, options: DopOptions, fresh_count: int, learner: Learner, batch: Batch, key: jax.Array,
    env_steps, hypers: DopHypers,
) -> tuple[Learner, Metrics]:  # fmt: skip
    """One gradient step; the first `fresh_count` sequences of `batch` are fresh, the others replayed."""
    eps = exploration_rate(hypers, env_steps)
    fresh, replayed = (take_sequences(batch, x) for x in (slice(fresh_count), slice(fresh_count, None)))
    replayed_probs = jnp.asarray(collecting_policy(nets, learner.params, replayed, eps).probs)
    actor, heads = ({k: learner.params[k] for k in names} for names in (("actor",), ("critic", "mixer")))

    def targets(log_probs: jax.Array) -> Targets:
        return Targets(
            on_policy_targets(nets, learner.target, fresh, jnp.exp(log_probs), hypers),
            tree_backup_targets(nets, learner.target, replayed, replayed_probs, options.tree_steps, hypers),
        )

    grads, _, metrics = gradients_through(
        lambda actor: collecting_policy(nets, actor, fresh, eps).logits,
        actor,
        heads,
        targets,
        lambda log_probs, heads, targets: dop_losses(
            nets, log_probs, heads, targets, fresh, replayed, hypers
        ),
    )
    tx = actor_critic_optimiser(options.optimiser, GROUPS, hypers, env_steps)
    return stepped(learner, grads, tx), metrics | {"grad_norm": optax.global_norm(grads)}


def first_learner(
    nets: DopNets, spec: EnvSpec, options: DopOptions, key: jax.Array, hypers: DopHypers
) -> Learner:
    """The learner before its first update."""
    keys, step = jax.random.split(key, 3), example_inputs(spec)
    params = {
        "actor": nets.actor.init(keys[0]),
        "critic": nets.critic.init(keys[1], step.state, agent_inputs(step, last_action=None, use_id=True)),
        "mixer": nets.mixer.init(keys[2], step.state),
    }
    tx = actor_critic_optimiser(options.optimiser, GROUPS, hypers)
    return new_learner(params, ("critic", "mixer"), tx)


def inspect(nets: DopNets, learner: Learner, batch: Batch) -> Inspection:
    """What the learner believes about a batch; its policy is shown without the floor."""
    T = len(batch.reward)
    values = critic_values(nets, learner.params, first_instants(batch.steps, T))
    policy = nets.actor.policy(learner.params["actor"], batch)[:T]
    best = policy.logits.argmax(-1)
    return Inspection(
        greedy=best,
        q=values.q,
        q_tot=values.q_tot(batch.action),
        q_tot_greedy=values.q_tot(best),
        logits=policy.logits,
        probs=policy.probs,
    )


@register_learner("dop", options=DopOptions, hypers=DopHypers, data="both", shared_instants=True)
def make_dop(config: Config, spec: EnvSpec) -> Algorithm:
    """Stochastic DOP for environments of shape `spec`."""
    options, operands = config.algo, config.net.operands
    nets = DopNets(
        actor=make_actor(config.net, spec, explore=exploration_rate),
        critic=AgentCritic(spec.n_actions, options.critic_hidden, operands),
        mixer=PositiveSum(spec.n_agents, options.mixing_embed, options.form, operands),
    )
    return Algorithm(
        init=partial(first_learner, nets, spec, options),
        carry=nets.actor.carry,
        act=nets.actor.act,
        greedy=nets.actor.greedy,
        update=partial(update, nets, options, config.collect.envs),
        inspect=partial(inspect, nets),
        refresh_target=refresh_targets,
        target_interval=options.target_interval,
    )
