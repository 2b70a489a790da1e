"""What every environment is like: sizes, rewards, simple players, speed.

    python benchmarks/environments.py smax/3m overcooked/cramped_room ...
    python benchmarks/environments.py            # all of the table

Plays 1,000 episodes with uniformly random available actions and, in SMAX, 1,000 with the enemy's own
heuristic on our side. Steps per second are of the random team, 100 environments at a time, observations,
states and availability included. Writes results/environments.json, where rows not asked for stay, and the
table of docs/environments.md.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from me_igm_jax import Env, load, make_env
from me_igm_jax.config.registry import env_names
from me_igm_jax.training.rollout import collect_episodes, random_actor

ROOT = Path(__file__).parent.parent
OUT = ROOT / "benchmarks" / "results" / "environments.json"
DOC = ROOT / "docs" / "environments.md"
SLOTS, ROUNDS = 100, 10
FAMILIES = ("matrix", "differential", "smax", "overcooked", "mpe", "jaxmarl")


def play(env: Env) -> tuple[dict, float]:
    """Per-episode arrays of ROUNDS x SLOTS random episodes, and seconds of all rounds but the first."""

    act = random_actor(env.spec)

    @jax.jit
    def episodes(key):
        batch, stats = collect_episodes(env, (), act, key, SLOTS)
        lowest = jnp.where(batch.mask > 0, batch.reward, jnp.inf).min()
        highest = jnp.where(batch.mask > 0, batch.reward, -jnp.inf).max()
        extent = {"return": batch.reward.sum(0), "length": batch.mask.sum(0)}
        return extent | stats, lowest, highest

    keys = jax.random.split(jax.random.key(0), ROUNDS)
    rounds = [jax.block_until_ready(episodes(keys[0]))]
    begin = time.perf_counter()
    rounds += [episodes(key) for key in keys[1:]]
    jax.block_until_ready(rounds)
    seconds = time.perf_counter() - begin
    found = {k: np.concatenate([np.asarray(r[0][k]) for r in rounds]) for k in rounds[0][0]}
    return found | {"lowest": min(r[1] for r in rounds), "highest": max(r[2] for r in rounds)}, seconds


def heuristic_team(name: str) -> dict:
    """The enemy's rule plays our side: share of battles won."""
    from me_igm_jax.envs.smax import heuristic, units

    config = load(env=name)
    env, sim = make_env(config), units.simulator(name.split("/")[1])

    def episode(key):
        state = env.reset(key)
        memory = heuristic.first_memory(sim, heuristic.teams(sim, state.units)[0])

        def step(loop, key):
            state, memory, running, won = loop
            act_key, step_key = jax.random.split(key)
            u = jax.random.uniform(act_key, (sim.num_allies,))
            action, memory = heuristic.ally_policy(sim, state.units, memory, u)
            state, outcome = env.step(step_key, state, action)
            won = jnp.where(running, outcome.stats["won"], won)
            return (state, memory, running & ~outcome.terminal, won), None

        start = (state, memory, jnp.asarray(True), jnp.zeros(()))
        return jax.lax.scan(step, start, jax.random.split(key, env.spec.horizon))[0][3]

    play_all = jax.jit(lambda k: jax.lax.map(episode, k, batch_size=SLOTS))
    won = play_all(jax.random.split(jax.random.key(1), ROUNDS * SLOTS))
    return {"heuristic_won": float(won.mean())}


def measure(name: str) -> dict:
    env = make_env(load(env=name))
    spec = env.spec
    found, seconds = play(env)
    steps = spec.horizon * SLOTS * (ROUNDS - 1)
    row = {
        "env": name, "agents": spec.n_agents, "actions": spec.n_actions, "horizon": spec.horizon,
        "obs": list(spec.obs_shape), "state": spec.state_dim, "max_return": spec.max_return,
        "reward_seen": [float(found["lowest"]), float(found["highest"])],
        "random_return": float(found["return"].mean()),
        "random_return_error": float(found["return"].std() / found["return"].size ** 0.5),
        "random_length": float(found["length"].mean()),
        "steps_per_second": steps / seconds,
    }  # fmt: skip
    if "won" in spec.stats:
        row |= {"random_won": float(found["won"].mean())} | heuristic_team(name)
    return row | {"jax": jax.__version__, "device": f"{platform.machine()} CPU, {os.cpu_count()} cores"}


def table(rows: list[dict]) -> str:
    head = (
        "| environment | agents | actions | horizon | observation | state | reward per step | best return "
        "| random: return | random: won | heuristic: won | steps/s |\n" + "|---" * 12 + "|"
    )
    lines = []
    for r in rows:
        low, high = r["reward_seen"]
        shape = " x ".join(map(str, r["obs"]))
        best = "" if r["max_return"] is None else f"{r['max_return']:g}"
        won = [f"{r[k]:.3f}" if k in r else "" for k in ("random_won", "heuristic_won")]
        lines.append(
            f"| `{r['env']}` | {r['agents']} | {r['actions'] or 'continuous'} | {r['horizon']} | {shape} "
            f"| {r['state']} | {low:.3g} to {high:.3g} | {best} | {r['random_return']:.2f} | {won[0]} "
            f"| {won[1]} | {r['steps_per_second']:,.0f} |"
        )
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args().names
    known = [n for n in env_names() if n.split("/")[0] in FAMILIES and n != "matrix/custom"]
    rows = {r["env"]: r for r in json.loads(OUT.read_text())} if OUT.exists() else {}
    for name in asked or known:
        rows[name] = measure(name)
        ordered = [rows[n] for n in known if n in rows]
        OUT.write_text(json.dumps(ordered, indent=1) + "\n")
        before, _, rest = DOC.read_text().partition("<!-- table -->\n")
        after = rest.partition("<!-- end -->")[2]
        DOC.write_text(f"{before}<!-- table -->\n{table(ordered)}\n<!-- end -->{after}")
        print(table([rows[name]]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
