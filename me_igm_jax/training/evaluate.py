"""Evaluation: exactly the asked number of full greedy, decentralised episodes, as arrays."""

import jax
import jax.numpy as jnp

from ..types import Algorithm, Env, Learner
from .rollout import collect_episodes, greedy_actor


def evaluate(
    env: Env, algo: Algorithm, learner: Learner, key: jax.Array, episodes: int
) -> dict[str, jax.Array]:
    """Per-episode `return` (undiscounted, the environment's reward units), `length` (steps) and the
    environment's own stats (`won` is 0 or 1), each [episodes]."""
    carry = algo.carry(episodes)
    batch, stats = collect_episodes(env, carry, greedy_actor(algo, learner), key, episodes)
    return {"return": batch.reward.sum(0), "length": batch.mask.sum(0), **stats}


def summarise(episodes: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Mean over the episodes."""
    return {name: jnp.mean(x) for name, x in episodes.items()}
