"""Agent networks: any class, any carry, weights for all agents or for each; what they read."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from me_igm_jax import Batch, ConfigError, EnvSpec, TimeStep, register_agent
from me_igm_jax.config import Net
from me_igm_jax.networks.agents import Agent, example_inputs, last_actions, make_agent, make_agent_net

T, B, N, A, D = 4, 3, 2, 3, 5
SPEC = EnvSpec("test/agents", N, A, (D,), state_dim=2, horizon=T, limit_is_terminal=True)


class Sums(nn.Module):
    """An agent from outside: a sum of its inputs, and a count of the instants of this episode."""

    outputs: int
    hidden: int = 4
    unknown: float = 2.0  # no field of config.net has this name

    @nn.compact
    def __call__(self, carry, x, first):
        x = nn.Dense(self.hidden)(x)

        def step(carry, inputs):
            x, begins = inputs
            total, count = (
                jnp.where(begins[:, None, None], 0.0, c) for c in (carry["sum"], carry["count"])
            )
            carry = {"sum": total + x, "count": count + 1}
            return carry, jnp.concatenate([carry["sum"], carry["count"]], axis=-1)

        carry, h = jax.lax.scan(step, carry, (x, first))
        return carry, nn.Dense(self.outputs)(h)

    @nn.nowrap
    def initial_carry(self, batch, agents):
        return {"sum": jnp.zeros((batch, agents, self.hidden)), "count": jnp.zeros((batch, agents, 1))}


register_agent("test_sums", Sums)


def batch_of(instants=T + 1, sequences=B):
    keys = jax.random.split(jax.random.key(0), 3)
    lead = (T + 1, B)
    steps = TimeStep(
        obs=jax.random.normal(keys[0], (*lead, N, D)),
        state=jnp.zeros((*lead, 2)),
        avail=jnp.ones((*lead, N, A), bool),
        alive=jnp.ones((*lead, N), bool),
    )
    first = jax.random.bernoulli(keys[1], 0.3, lead).at[0].set(True)
    steps, first = jax.tree.map(lambda x: x[:instants, :sequences], (steps, first))
    action = jax.random.randint(keys[2], (T, B, N), 0, A)
    some = jnp.ones((T, B))
    return Batch(steps=steps, first=first, action=action, reward=some, discount=some, mask=some)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "each"])
@pytest.mark.parametrize("name", ["standard", "test_sums"])
def test_steps_are_those_of_the_unroll(name, shared):
    """Acting step by step, with the carry handed on, gives what the unroll over the batch gives."""
    agent = make_agent_net(Net(agent=name, hidden=4, shared=shared), SPEC)
    params, batch = agent.init(jax.random.key(1)), batch_of()
    step, unrolled = jax.jit(agent.step), jax.jit(agent.unroll)(params, batch)
    assert unrolled.shape == (T + 1, B, N, A)
    carry = agent.carry(B)
    for t in range(T):
        begins, fresh = batch.first[t], agent.carry(B)
        carry = jax.tree.map(
            lambda new, old, begins=begins: jnp.where(begins.reshape(-1, *[1] * (old.ndim - 1)), new, old),
            fresh,
            carry,
        )
        memory, out = step(params, carry, jax.tree.map(lambda x, t=t: x[t], batch.steps))
        np.testing.assert_allclose(out, unrolled[t], rtol=1e-5, atol=1e-5)
        carry = (memory, batch.action[t])


@pytest.mark.parametrize("name", ["standard", "test_sums"])
def test_each_agent_has_its_weights(name):
    """Separate weights: agent i of the team is that agent by itself, and no other."""
    net = Net(agent=name, hidden=4, shared=False, agent_id=False)
    team, single = make_agent_net(net, SPEC), make_agent_net(net, SPEC._replace(n_agents=1))
    params, batch = team.init(jax.random.key(1)), batch_of()
    out = team.unroll(params, batch)
    assert all(len(x) == N for x in jax.tree.leaves(params))
    for i in range(N):
        steps = batch.steps._replace(
            **{k: getattr(batch.steps, k)[:, :, i : i + 1] for k in ("obs", "avail", "alive")}
        )
        alone = batch._replace(steps=steps, action=batch.action[..., i : i + 1])
        own = jax.tree.map(lambda x, i=i: x[i : i + 1], params)
        np.testing.assert_allclose(single.unroll(own, alone), out[:, :, i : i + 1], rtol=1e-5, atol=1e-5)
        other = jax.tree.map(lambda x, i=i: x[1 - i : 2 - i], params)
        assert not np.allclose(single.unroll(other, alone), out[:, :, i : i + 1], atol=1e-3)


@pytest.mark.parametrize("instants, sequences", [(T, B), (T, 1), (T + 1, 1)])
def test_fewer_instants_or_sequences(instants, sequences):
    agent = make_agent_net(Net(hidden=4), SPEC)
    params = agent.init(jax.random.key(1))
    out = agent.unroll(params, batch_of(instants, sequences))
    whole = agent.unroll(params, batch_of())[:instants, :sequences]
    np.testing.assert_allclose(out, whole, rtol=1e-5, atol=1e-5)


def test_last_actions():
    first = jnp.array([[True, True], [False, True], [False, False]])
    action = jnp.array([[[1, 2], [0, 1]], [[2, 2], [1, 0]]])  # [T = 2, B = 2, N = 2]
    want = [[[-1, -1], [-1, -1]], [[1, 2], [-1, -1]], [[2, 2], [1, 0]]]
    np.testing.assert_array_equal(last_actions(first, action, SPEC), want)


def test_a_grid_is_needed_for_convolutions():
    with pytest.raises(ConfigError, match=r"use net\.torso=mlp"):
        make_agent(Net(torso="cnn"), SPEC)
    grid = make_agent(Net(torso="cnn"), SPEC._replace(obs_shape=(4, 5, 2)))
    assert grid.grid == (4, 5, 2)


def test_layer_norm_is_that_of_pytorch():
    """(x - mean) / sqrt(variance + 1e-5)."""
    agent = Agent(outputs=1, hidden=2, layers=1, recurrent=False, layer_norm=True)
    x = 1e-2 * jnp.array([[[[1.0, 2.0, 4.0]]]])
    first, carry = jnp.ones((1, 1), bool), agent.initial_carry(1, 1)
    params = agent.init(jax.random.key(0), carry, x, first)
    _, state = agent.apply(params, carry, x, first, capture_intermediates=True)
    got = state["intermediates"]["LayerNorm_0"]["__call__"][0]
    np.testing.assert_allclose(got, (x - x.mean()) / np.sqrt(np.var(x) + 1e-5), rtol=1e-5)


def test_example_inputs_have_the_types_of_the_contract():
    continuous = SPEC._replace(n_actions=0, action_dim=2, action_bounds=(-1.0, 1.0))
    for spec, actions in ((SPEC, A), (continuous, 1)):
        step = example_inputs(spec)
        assert step.avail.shape == (1, N, actions) and step.avail.dtype == bool and step.avail.all()
        assert step.alive.shape == (1, N) and step.alive.dtype == bool
        assert step.obs.shape == (1, N, D) and step.state.shape == (1, 2)
