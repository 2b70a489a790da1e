"""MAAC (Iqbal & Sha 2019) for continuous actions: critics that attend to what the other agents do."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..boxes import to_unit
from ..config import Config, ConfigError, Hypers
from ..mixers import concat
from ..nets import Linear, dot_general, torch_uniform
from ..returns import lambda_return, masked_mean
from ..types import Algorithm, Batch, EnvSpec, Inspection, Learner, Params
from .actor import draw, make_gaussian_actor, mode
from .agent import apply, each_sample, empty_step, make_agent_net, trim
from .learning import (
    actor_critic_optimiser,
    first_temperature,
    new_learner,
    soft_step,
    target_refresher,
)

sg = jax.lax.stop_gradient


class Critic(nn.Module):
    """Q_i(o, u) = f(e_i, x_i), with x_i what agent i attends to in the others (MAAC Eq. 5-6):

        e_i = g(h_i, u_i),   x_i = concat_k sum_{j != i} a_kij leaky(V_k e_j)
        a_ki = softmax_{j != i}((K_k e_j) . (W_k e_i) / sqrt(width of a head))

    With `own`, gradients reach the actions through e_i alone, not through the others' e_j.
    Shapes: features h [..., N, H], actions in [-1, 1] [..., N, d] -> [..., N]; leading axes broadcast.
    """

    hidden: int
    heads: int

    @nn.compact
    def __call__(self, h: jax.Array, action: jax.Array, own: bool = False) -> jax.Array:
        project = partial(
            nn.Dense,
            self.hidden,
            use_bias=False,
            kernel_init=torch_uniform(self.hidden),
            dot_general=dot_general,
        )
        e = nn.leaky_relu(Linear(self.hidden)(nn.relu(h)) + Linear(self.hidden)(action))
        others = sg(e) if own else e

        def heads(x: jax.Array) -> jax.Array:
            return x.reshape(*x.shape[:-1], self.heads, -1)

        query = heads(project()(e))[..., :, None, :, :]
        key = heads(project()(others))[..., None, :, :, :]
        value = heads(nn.leaky_relu(Linear(self.hidden)(others)))[..., None, :, :, :]
        itself = jnp.eye(action.shape[-2], dtype=bool)[..., None]  # [N, N, 1]
        logits = (query * key).sum(-1) / value.shape[-1] ** 0.5  # [..., N, N, K]
        weights = nn.softmax(jnp.where(itself, -1e9, logits), axis=-2)
        weights = jnp.where(itself, 0.0, weights)  # an agent all alone attends to nothing
        x = (weights[..., None] * value).sum(-3).reshape(e.shape)
        y = nn.leaky_relu(Linear(self.hidden)(concat(e, x)))
        return Linear(1)(y)[..., 0]


def make_maac(config: Config, spec: EnvSpec) -> Algorithm:
    """Build MAAC for continuous actions. Losses, for u from replay and a ~ pi, means over the agents:

        critic   (Q_i(s, u) - G_i)^2, G_i the lambda-return of Q^-_i(s', a') - alpha log pi^-_i(a'_i),
                 a' of the target policies pi^-
        actor    alpha log pi_i(a_i) - Q_i(s, a), its gradient through a_i alone

    The paper's policy gradient has a counterfactual baseline, a sum over an agent's discrete actions;
    continuous ones take the reparameterised gradient in its place. Critics are one network, told which
    agent it serves; rewards are the team's. The joint value is the mean of the Q_i. Densities are of
    actions in the box's units. The dead have no entropy and no part in the actors' loss.
    """
    algo, maac, net = config.algo, config.maac, dataclasses.replace(config.net, output_scale=1.0)
    if maac.hidden % maac.heads:
        raise ConfigError(f"maac.hidden={maac.hidden}: must be a multiple of maac.heads={maac.heads}")
    actor, features = make_gaussian_actor(config.net, spec), make_agent_net(net, spec, outputs=maac.hidden)
    critic = Critic(maac.hidden, maac.heads)
    groups = {"actor": "actor", "features": "critic", "critic": "critic"}

    def values(params: Params, h: jax.Array, action: jax.Array, own: bool = False) -> jax.Array:
        """Q_i of joint actions [..., N, d], [..., N]."""
        return apply(critic, params["critic"], h, to_unit(action, spec), own)

    # -- learning ----------------------------------------------------------------------------------

    def goal(learner: Learner, batch: Batch, key: jax.Array, hypers: Hypers) -> jax.Array:
        """The lambda-returns G_i, [T, B, N]."""

        def each(x: jax.Array) -> jax.Array:
            return jnp.broadcast_to(x[..., None], (*x.shape, spec.n_agents))

        if spec.one_step:
            return each(batch.reward)
        target, B = learner.target, batch.reward.shape[1]
        action, log_pi = draw(actor.policy(target["actor"], batch), key, B)
        value = values(target, features.unroll(target["features"], batch), action)
        bonus = -jnp.exp(learner.log_alpha) * batch.steps.alive * log_pi
        outcome = each(batch.reward), each(batch.discount), each(batch.mask)
        return lambda_return(*outcome, value, bonus, hypers.gamma, hypers.td_lambda)

    def update(learner: Learner, batch: Batch, key, env_steps, hypers: Hypers):
        goal_key, key = jax.random.split(key)
        batch, alpha = trim(batch, spec), jnp.exp(learner.log_alpha)
        (T, B), mask, alive = batch.reward.shape, batch.mask, batch.steps.alive
        g = goal(learner, batch, goal_key, hypers)

        def losses(params: Params):
            action, log_pi = draw(actor.policy(params["actor"], batch), key, B)
            action, log_pi = action[:T], (alive * log_pi)[:T]
            h = features.unroll(params["features"], batch)[:T]
            q = values(params, h, batch.action)
            gain = values(sg(params), sg(h), action, own=True) - alpha * log_pi
            entropy = masked_mean(-log_pi.sum(-1), mask)
            metrics = {
                "loss_critic": masked_mean(jnp.square(q - g).mean(-1), mask),
                "loss_actor": -masked_mean(gain, alive[:T] * mask[..., None]),
                "q_tot": masked_mean(q.mean(-1), mask),
                "target": masked_mean(g.mean(-1), mask),
            }
            return metrics["loss_critic"] + metrics["loss_actor"], (metrics, entropy)

        grads, (metrics, entropy) = jax.grad(losses, has_aux=True)(learner.params)
        tx = actor_critic_optimiser(algo.optimiser, groups, hypers, env_steps)
        learner, taken = soft_step(algo, spec, learner, grads, tx, entropy, env_steps, hypers)
        return learner, metrics | taken

    # -- life cycle --------------------------------------------------------------------------------

    def init(key: jax.Array, hypers: Hypers) -> Learner:
        keys, lead = jax.random.split(key, 3), empty_step(spec).alive.shape
        h, action = (jnp.zeros((*lead, width)) for width in (maac.hidden, spec.action_dim))
        params = {
            "actor": actor.init(keys[0]),
            "features": features.init(keys[1]),
            "critic": critic.init(keys[2], h, action),
        }
        tx = actor_critic_optimiser(algo.optimiser, groups, hypers)
        return new_learner(params, params, tx, first_temperature(algo, hypers))

    def inspect(learner: Learner, batch: Batch) -> Inspection:
        (T, _), batch, params = batch.reward.shape, trim(batch, spec), learner.params
        h = features.unroll(params["features"], batch)[:T]
        best = mode(actor.policy(params["actor"], batch))[:T]
        q_tot, q_tot_greedy = (values(params, h, u).mean(-1) for u in (batch.action, best))
        return each_sample(Inspection(None, q_tot, q_tot_greedy, best, None, None), batch)

    return Algorithm(init, actor.carry, actor.act, actor.greedy, update, target_refresher(spec), inspect)
