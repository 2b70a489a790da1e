"""DOP, stochastic (Wang et al. 2021): actor-critic with a critic that is a sum over the agents.

Linear in the agents' values, the critic has an expectation over joint actions that needs no sum over
them: replayed data teach it by tree backups, and every agent's policy gradient has a term of its own.
"""

from typing import Any, Literal, NamedTuple

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ..config import Config, Hypers
from ..mixers import concat
from ..nets import MLP, Linear, agent_inputs
from ..policies import floored, linear_schedule
from ..returns import lambda_return, masked_mean, n_step_return
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Params, TimeStep
from .actor import make_actor
from .agent import apply, chosen, each_sample, empty_step, trim
from .learning import (
    actor_critic_optimiser,
    new_learner,
    stepped,
    target_refresher,
)

sg = jax.lax.stop_gradient


class Critic(nn.Module):
    """Q_i(s, o_i, .) = a(h) + v(h), with h two layers on [s, o_i, i].

    Shapes: state [..., G], inputs [..., N, D] -> [..., N, A].
    """

    n_actions: int
    hidden: int

    @nn.compact
    def __call__(self, state: jax.Array, inputs: jax.Array) -> jax.Array:
        h = concat(state[..., None, :], inputs)
        for _ in range(2):
            h = nn.relu(Linear(self.hidden)(h))
        return Linear(self.n_actions)(h) + Linear(1)(h)


class LinearMixer(nn.Module):
    """(k, b) of Q_tot = sum_i k_i(s) Q_i + b(s), k = |W(s)| |w(s)|: [..., G] -> [..., N], [...].

    paper      as above (Eq. 1)
    released   k / sum_i k_i, and no b
    """

    n_agents: int
    embed: int
    form: Literal["paper", "released"]

    @nn.compact
    def __call__(self, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        first = jnp.abs(Linear(self.n_agents * self.embed)(state))
        second = jnp.abs(Linear(self.embed)(state))
        k = (first.reshape(*state.shape[:-1], self.n_agents, -1) * second[..., None, :]).sum(-1)
        if self.form == "released":
            return k / k.sum(-1, keepdims=True), jnp.zeros(k.shape[:-1])
        return k, MLP((self.embed, 1))(state)[..., 0]


class Values(NamedTuple):
    """A decomposed critic at some instants."""

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


def make_dop(config: Config, spec: EnvSpec) -> Algorithm:
    """Build DOP for environments of shape `spec`. Losses, on fresh data (on) and on replayed ones (off):

        critic   kappa E_off[(Q_tot(s, u) - G_tree)^2] + (1 - kappa) E_on[(Q_tot(s, u) - G_lambda)^2]
        actor    -E_on[k_i(s) (Q_i(u_i) - E_pi_i[Q_i]) log pi_i(u_i)]                               (6)

    Means are over real steps and, the actor's, agents alive. pi includes the epsilon floor it explores
    by, as in the released code: what collects is what is evaluated and improved.
    """
    algo, dop = config.algo, config.dop
    actor = make_actor(config.net, spec)
    critic = Critic(spec.n_actions, dop.critic_hidden)
    mixer = LinearMixer(spec.n_agents, algo.mixing_embed, dop.form)
    groups = {"actor": "actor", "critic": "critic", "mixer": "critic"}

    # -- values ------------------------------------------------------------------------------------

    def inputs(steps: TimeStep) -> jax.Array:
        return agent_inputs(steps, last_action=None, use_id=True)

    def values(params: Params, steps: TimeStep) -> Values:
        q = apply(critic, params["critic"], steps.state, inputs(steps))
        return Values(q, *apply(mixer, params["mixer"], steps.state))

    def acting(params: Params, batch: Batch, eps: jax.Array) -> distrax.Categorical:
        return floored(actor.policy(params["actor"], batch), batch.steps.avail, eps)

    # -- learning ----------------------------------------------------------------------------------

    def on_policy_goal(target: Params, batch: Batch, probs: jax.Array, hypers: Hypers) -> jax.Array:
        if spec.one_step:
            return batch.reward
        value = values(target, batch.steps).expected(probs)
        outcome = (batch.reward, batch.discount, batch.mask)
        return lambda_return(*outcome, value, jnp.zeros_like(value), hypers.gamma, hypers.td_lambda)

    def off_policy_goal(target: Params, batch: Batch, probs: jax.Array, hypers: Hypers) -> jax.Array:
        if spec.one_step:
            return batch.reward
        T, now = len(batch.reward), values(target, batch.steps)
        q_tot = instants(now, T).q_tot(batch.action)
        trace = hypers.trace * chosen(probs[:T], batch.action).prod(-1)
        outcome = (batch.reward, batch.discount, batch.mask)
        return n_step_return(*outcome, q_tot, now.expected(probs), trace, hypers.gamma, dop.tree_steps)

    def update(learner: Learner, batch: Batch, key, env_steps, hypers: Hypers):
        T, envs = len(batch.reward), config.collect.envs
        eps = linear_schedule(hypers.eps_start, hypers.eps_end, hypers.eps_steps, env_steps)
        fresh, replayed = (trim(sequences(batch, x), spec) for x in (slice(envs), slice(envs, None)))
        old_probs = jnp.asarray(acting(learner.params, replayed, eps).probs)
        off_goal = off_policy_goal(learner.target, replayed, old_probs, hypers)

        def losses(params: Params):
            policy = acting(params, fresh, eps)
            probs, log_probs = sg(jnp.asarray(policy.probs)), jnp.asarray(policy.logits)
            on_goal = on_policy_goal(learner.target, fresh, probs, hypers)
            on, off = (values(params, instants(x.steps, T)) for x in (fresh, replayed))
            on_q, off_q = on.q_tot(fresh.action), off.q_tot(replayed.action)
            loss_td = masked_mean(jnp.square(on_q - on_goal), fresh.mask)
            loss_tree = masked_mean(jnp.square(off_q - off_goal), replayed.mask)
            loss_critic = hypers.off_policy * loss_tree + (1 - hypers.off_policy) * loss_td
            gain = sg(on.advantage(fresh.action, probs[:T])) * chosen(log_probs[:T], fresh.action)
            loss_actor = -masked_mean(gain, fresh.steps.alive[:T] * fresh.mask[..., None])
            entropy = jnp.broadcast_to(jnp.asarray(policy.entropy())[:T].mean(-1), fresh.mask.shape)
            metrics = {
                "loss_actor": loss_actor,
                "loss_critic": loss_critic,
                "loss_td": loss_td,
                "loss_tree": loss_tree,
                "q_tot": masked_mean(jnp.concatenate([on_q, off_q], axis=1), batch.mask),
                "target": masked_mean(jnp.concatenate([on_goal, off_goal], axis=1), batch.mask),
                "entropy": masked_mean(entropy, fresh.mask),
            }
            return loss_actor + loss_critic, metrics

        grads, metrics = jax.grad(losses, has_aux=True)(learner.params)
        metrics["grad_norm"] = optax.global_norm(grads)
        tx = actor_critic_optimiser(algo.optimiser, groups, hypers, env_steps)
        return stepped(learner, grads, tx), metrics

    # -- life cycle --------------------------------------------------------------------------------

    def init(key: jax.Array, hypers: Hypers) -> Learner:
        actor_key, critic_key, mixer_key = jax.random.split(key, 3)
        step = empty_step(spec)
        params = {
            "actor": actor.init(actor_key),
            "critic": critic.init(critic_key, step.state, inputs(step)),
            "mixer": mixer.init(mixer_key, step.state),
        }
        tx = actor_critic_optimiser(algo.optimiser, groups, hypers)
        return new_learner(params, ("critic", "mixer"), tx)

    def inspect(learner: Learner, batch: Batch) -> Inspection:
        T, batch = len(batch.reward), trim(batch, spec)
        now = values(learner.params, instants(batch.steps, T))
        policy = actor.policy(learner.params["actor"], batch)
        logits, probs = (jnp.asarray(x)[:T] for x in (policy.logits, policy.probs))
        best = logits.argmax(-1)
        view = Inspection(now.q, now.q_tot(batch.action), now.q_tot(best), best, logits, probs)
        return each_sample(view, batch)

    return Algorithm(
        init, actor.carry, actor.act, actor.greedy, update, target_refresher(spec), inspect, data="both"
    )


def sequences(batch: Batch, which: slice) -> Batch:
    """Some of the sequences of a batch."""
    return jax.tree.map(lambda x: x[:, which], batch)


def instants(tree: Any, count: int) -> Any:
    """The first `count` instants of every array in `tree`."""
    return jax.tree.map(lambda x: x[:count], tree)
