"""HASAC: soft actors of the agents' own, improved one after the other under two joint critics."""

from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp
import optax

from ..config import Config, ConfigError, Hypers
from ..nets import MLP
from ..policies import greedy_action, sample
from ..returns import masked_mean, n_step_return
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Metrics, Params
from .actor import Actor, make_actor
from .agent import apply, empty_step, trim
from .learning import next_temperature, optimiser, refreshed, temperature_optimiser

sg = jax.lax.stop_gradient


class ActorStep(NamedTuple):
    """One agent's part in the learner, and what its gradient step reported; stacked [N, ...]."""

    params: Params
    opt_state: optax.OptState
    loss: jax.Array
    grad_norm: jax.Array


def make_hasac(config: Config, spec: EnvSpec) -> Algorithm:
    """Heterogeneous-agent soft actor-critic (Liu et al. 2024) for discrete actions.

    Losses, each a mean over the real transitions m (the actors': over those of living agents):
      L(theta)    = 1/2 sum_k (Q_k(s, u) - G)^2      k = 1, 2; G: `returns.n_step_return` of
      V(s)        = min_k Q^-_k(s, a) - alpha_c sum_i log pi_i(a_i),                  a ~ pi
      L(phi_i)    = alpha_i log pi_i(a_i) - min_k Q_k(s, a_i, a_-i),                  a ~ pi
      L(alpha_i)  = alpha_i (H(pi_i) - H_i),   L(alpha_c) = alpha_c sum_i (H(pi_i) - H_i)
    H_i is `hasac.target_entropy`'s. The actors learn in random order, each beside actions of those
    before it that their new policies chose; the gradient reaches phi_i through `straight_through`.
    log_alpha is [alpha_1 .. alpha_N, alpha_c]. The target critics follow at every gradient step
    (hypers.tau), so `refresh_target` has nothing to do.
    """
    if config.net.shared or config.net.agent_id:
        key = "shared" if config.net.shared else "agent_id"
        raise ConfigError(f"net.{key}=true: hasac's agents have networks of their own; use net.{key}=false")
    algo, choices, N, A = config.algo, config.hasac, spec.n_agents, spec.n_actions
    team, single = (make_actor(config.net, spec._replace(n_agents=n)) for n in (N, 1))
    critic = MLP((choices.critic_hidden, choices.critic_hidden, 1))

    # -- policies and values ----------------------------------------------------------------------

    def log_policy(actor: Actor, params: Params, batch: Batch) -> jax.Array:
        """log pi of all actions, [T(+1), B, N, A] also where a trimmed batch shares its instants."""
        logits = jnp.asarray(actor.policy(params, batch).logits)
        return jnp.broadcast_to(logits, (len(logits), batch.reward.shape[1], *logits.shape[2:]))

    def draw(key: jax.Array, log_pi: jax.Array) -> jax.Array:
        """One-hot actions."""
        return jax.nn.one_hot(sample(key, distrax.Categorical(logits=log_pi)), A)

    def values(params: Params, state: jax.Array, joint: jax.Array) -> jax.Array:
        """Both critics' Q_k(s, u), [2, T, B], of one-hot joint actions [T, B, N, A]."""
        lead = joint.shape[:2]
        state = jnp.broadcast_to(state, (*lead, state.shape[-1]))
        x = jnp.concatenate([state, joint.reshape(*lead, -1)], axis=-1)
        return jax.vmap(lambda p: apply(critic, p, x)[..., 0])(params)

    # -- learning ---------------------------------------------------------------------------------

    def target(learner: Learner, log_pi: jax.Array, batch: Batch, key, hypers: Hypers) -> jax.Array:
        if spec.one_step:
            return batch.reward
        joint = draw(key, log_pi)
        value = values(learner.target["critic"], batch.steps.state, joint).min(0)
        value -= jnp.exp(learner.log_alpha[-1]) * (log_pi * joint).sum((-2, -1))
        outcome = (batch.reward, batch.discount, batch.mask)
        traces = jnp.ones_like(batch.mask)
        return n_step_return(*outcome, value[:-1], value, traces, hypers.gamma, choices.n_step)

    def critic_loss(params: Params, batch: Batch, g: jax.Array, hypers: Hypers):
        q = values(params, batch.steps.state, jax.nn.one_hot(batch.action, A))
        error = q - g
        loss = optax.huber_loss(error, delta=hypers.huber_delta) if choices.huber else 0.5 * error**2
        return masked_mean(loss.sum(0), batch.mask), masked_mean(q.min(0), batch.mask)

    def improve(
        learner: Learner, critics: Params, log_pi: jax.Array, batch: Batch, key, env_steps, hypers: Hypers
    ) -> ActorStep:
        """One gradient step of every actor, in random order; the result is in the agents' order."""
        order_key, joint_key, turns_key = jax.random.split(key, 3)
        order = jax.random.permutation(order_key, N)
        tx = optimiser(algo.optimiser, hypers.lr, hypers, env_steps)

        def turn(joint: jax.Array, given):
            i, params, opt_state, alpha, turn_key = given
            noise_key, action_key = jax.random.split(turn_key)
            alone = only(batch, i)
            mask = batch.mask * alone.steps.alive[..., 0]

            def act(p: Params, choose, choice_key) -> tuple[jax.Array, jax.Array]:
                """log pi_i(a_i) [T, B], and the joint action with a_i in it."""
                log_pi = log_policy(single, jax.tree.map(lambda x: x[None], p), alone)
                action = choose(choice_key, log_pi)
                mine = jnp.arange(N)[:, None] == i
                return (action * log_pi).sum((-2, -1)), jnp.where(mine, action, joint)

            def actor_loss(p: Params) -> jax.Array:
                log_prob, actions = act(p, straight_through, noise_key)
                q = values(critics, batch.steps.state, actions).min(0)
                return masked_mean(alpha * log_prob - q, mask)

            loss, grads = jax.value_and_grad(actor_loss)(params)
            step, opt_state = tx.update(grads, opt_state, params)
            params = optax.apply_updates(params, step)
            _, joint = act(params, draw, action_key)
            return joint, ActorStep(params, opt_state, loss, optax.global_norm(grads))

        each = (learner.params["actor"], learner.opt_state["actor"], learner.log_alpha[:N])
        params, opt_state, log_alpha = jax.tree.map(lambda x: x[order], each)
        turns = (order, params, opt_state, jnp.exp(log_alpha), jax.random.split(turns_key, N))
        steps = jax.lax.scan(turn, draw(joint_key, log_pi), turns)[1]
        return jax.tree.map(lambda x: x[jnp.argsort(order)], steps)

    def wanted_entropy(avail: jax.Array, hypers: Hypers) -> jax.Array:
        count = {
            "available": avail.sum(-1),
            "all": jnp.full(avail.shape[:-1], A),
            "zero": jnp.ones(avail.shape[:-1]),
        }
        return hypers.entropy_share * jnp.log(count[choices.target_entropy])

    def over_lives(x: jax.Array, batch: Batch) -> jax.Array:
        """Means [N + 1] of x [T, B, N]: of each agent's while it lives, and of the living's sum."""
        living = batch.steps.alive * batch.mask[..., None]
        each = jax.vmap(masked_mean, in_axes=-1)(jnp.broadcast_to(x, living.shape), living)
        jointly = masked_mean((x * living).sum(-1), batch.mask)
        return jnp.append(each, jointly)

    def update(learner: Learner, batch: Batch, key, env_steps, hypers: Hypers) -> tuple[Learner, Metrics]:
        T, batch = len(batch.reward), trim(batch, spec)
        target_key, actors_key = jax.random.split(key)
        log_pi = log_policy(team, learner.params["actor"], batch)
        g = target(learner, log_pi, batch, target_key, hypers)
        log_pi, batch = log_pi[:T], without_last(batch)

        grad = jax.value_and_grad(critic_loss, has_aux=True)
        (loss, q_tot), grads = grad(learner.params["critic"], batch, g, hypers)
        tx = optimiser(algo.optimiser, hypers.critic_lr, hypers, env_steps)
        step, opt_state = tx.update(grads, learner.opt_state["critic"], learner.params["critic"])
        critics = optax.apply_updates(learner.params["critic"], step)

        actors = improve(learner, critics, log_pi, batch, actors_key, env_steps, hypers)
        entropy = over_lives(-(jnp.exp(log_pi) * log_pi).sum(-1), batch)
        wanted = over_lives(wanted_entropy(batch.steps.avail, hypers), batch)
        log_alpha, alpha_opt_state = next_temperature(algo, learner, entropy, wanted, env_steps, hypers)

        alpha = jnp.exp(learner.log_alpha)
        metrics = {
            "loss_actor": actors.loss.mean(),
            "loss_critic": loss,
            "q_tot": q_tot,
            "target": masked_mean(g, batch.mask),
            "entropy": entropy[N] / N,
            "alpha": alpha[:N].mean(),
            "alpha_critic": alpha[N],
            "grad_norm": optax.global_norm((grads, actors.grad_norm)),
        }
        moved = refreshed(learner.target["critic"], critics, jnp.asarray(not spec.one_step), hypers)
        learner = learner._replace(
            params={"actor": actors.params, "critic": critics},
            target={"critic": moved},
            opt_state={"actor": actors.opt_state, "critic": opt_state},
            log_alpha=log_alpha,
            alpha_opt_state=alpha_opt_state,
            updates=learner.updates + 1,
        )
        return learner, metrics

    # -- life cycle -------------------------------------------------------------------------------

    def init(key: jax.Array, hypers: Hypers) -> Learner:
        actor_key, critic_key = jax.random.split(key)
        step = empty_step(spec)
        x = jnp.concatenate([step.state, step.avail.reshape(1, -1)], axis=-1)
        actors = team.init(actor_key)
        critics = jax.vmap(lambda k: critic.init(k, x))(jax.random.split(critic_key))
        tx = optimiser(algo.optimiser, hypers.lr, hypers)
        log_alpha = jnp.full((N + 1,), jnp.log(jnp.asarray(hypers.alpha, jnp.float32)))
        return Learner(
            params={"actor": actors, "critic": critics},
            target={"critic": critics},
            opt_state={"actor": jax.vmap(tx.init)(actors), "critic": tx.init(critics)},
            log_alpha=log_alpha,
            alpha_opt_state=temperature_optimiser(algo, hypers).init(log_alpha),
            updates=jnp.zeros((), jnp.int32),
        )

    def inspect(learner: Learner, batch: Batch) -> Inspection:
        batch = without_last(trim(batch, spec))
        log_pi = log_policy(team, learner.params["actor"], batch)
        best = greedy_action(log_pi, batch.steps.avail)

        def joint_value(action: jax.Array) -> jax.Array:
            joint = jax.nn.one_hot(action, A)
            return values(learner.params["critic"], batch.steps.state, joint).min(0)

        return Inspection(
            q=None,
            q_tot=joint_value(batch.action),
            q_tot_greedy=joint_value(best),
            greedy=best,
            logits=log_pi,
            probs=jnp.exp(log_pi),
        )

    def refresh_target(learner: Learner, due: jax.Array, hypers: Hypers) -> Learner:
        return learner

    return Algorithm(init, team.carry, team.act, team.greedy, update, refresh_target, inspect)


def straight_through(key: jax.Array, log_pi: jax.Array) -> jax.Array:
    """One-hot actions whose gradient is that of softmax(log pi + Gumbel noise) (Jang et al. 2017)."""
    soft = jax.nn.softmax(log_pi + jax.random.gumbel(key, log_pi.shape))
    hard = jax.nn.one_hot(soft.argmax(-1), soft.shape[-1])
    return soft + sg(hard - soft)


def without_last(batch: Batch) -> Batch:
    """The instants at which the agents acted."""
    steps, first = jax.tree.map(lambda x: x[: len(batch.reward)], (batch.steps, batch.first))
    return batch._replace(steps=steps, first=first)


def only(batch: Batch, i: jax.Array) -> Batch:
    """What agent i sees, may do and does, as a batch of one agent."""

    def pick(x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, i, 1, axis=2)

    own = {field: pick(getattr(batch.steps, field)) for field in ("obs", "avail", "alive")}
    return batch._replace(steps=batch.steps._replace(**own), action=pick(batch.action))
