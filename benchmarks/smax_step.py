"""SMAX's step with all that a learner needs, ours and JaxMARL's, in turns.

    python benchmarks/smax_step.py --scenario smacv2_5_units

Both play uniformly random available actions against the heuristic enemy in parallel environments and return
observations, the world state and the available actions of every step. JaxMARL's step also computes a reset,
which it does by itself and cannot leave out; ours starts anew before each turn's roll-out instead. That
trajectories are equal is what tests/test_smax.py checks. Writes results/smax_step.json.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

from me_igm_jax import load, make_env
from me_igm_jax.runner import devices
from me_igm_jax.training.rollout import collect_stream, random_actor

OUT = Path(__file__).parent / "results" / "smax_step.json"


def jaxmarl_roll_out(scenario: str, envs: int, steps: int):
    """key -> what a learner would keep of `steps` steps in each of `envs` environments."""
    env = HeuristicEnemySMAX(
        scenario=map_name_to_scenario(scenario), see_enemy_actions=True, walls_cause_death=True
    )

    def roll_out(key: jax.Array):
        def step(carry, key):
            obs, state = carry
            act_key, env_key = jax.random.split(key)
            avail = jax.vmap(env.get_avail_actions)(state)
            noise = jax.random.uniform(act_key, (len(env.agents), envs, avail[env.agents[0]].shape[-1]))
            action = {
                agent: jnp.argmax(jnp.where(avail[agent], noise[i], -1.0), -1)
                for i, agent in enumerate(env.agents)
            }
            keys = jax.random.split(env_key, envs)
            after, state, reward, done, _ = jax.vmap(env.step)(keys, state, action)
            return (after, state), (obs, avail, action, reward["__all__"] if "__all__" in reward else
                                    reward[env.agents[0]], done["__all__"])  # fmt: skip

        start_key, scan_key = jax.random.split(key)
        start = jax.vmap(env.reset)(jax.random.split(start_key, envs))
        return jax.lax.scan(step, start, jax.random.split(scan_key, steps))[1]

    return roll_out


def our_roll_out(scenario: str, envs: int, steps: int):
    """The same through our collector."""
    config = load("qmix", env=f"smax/{scenario}")
    env = make_env(config)

    def roll_out(key: jax.Array):
        actor = random_actor(env.spec)
        return collect_stream(env, (), actor, key, envs, steps, config.collect.fresh_starts)

    return roll_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", default="smacv2_5_units")
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()

    roll_outs, compile_seconds = {}, {}
    for name, make_roll_out in (("jaxmarl", jaxmarl_roll_out), ("ours", our_roll_out)):
        roll_out = jax.jit(
            make_roll_out(options.scenario, options.envs, options.steps),
            compiler_options=devices.compiler_options() if name == "ours" else None,
        )
        begin = time.perf_counter()
        roll_outs[name] = roll_out.lower(jax.random.key(0)).compile()
        compile_seconds[name] = time.perf_counter() - begin
    seconds = {name: [] for name in roll_outs}
    for turn in range(options.rounds + 1):
        for name, roll_out in roll_outs.items():
            begin = time.perf_counter()
            jax.block_until_ready(roll_out(jax.random.key(turn)))
            seconds[name].append(time.perf_counter() - begin)
    seconds = {name: taken[1:] for name, taken in seconds.items()}  # the first touches fresh memory
    ratios = [theirs / mine for theirs, mine in zip(seconds["jaxmarl"], seconds["ours"], strict=True)]
    steps = options.envs * options.steps
    result = {
        "command": f"python benchmarks/smax_step.py --scenario {options.scenario} --envs {options.envs}",
        "jax": jax.__version__,
        "device": f"{platform.machine()} {jax.default_backend()}, {os.cpu_count()} cores",
        "steps_per_second": {k: steps / statistics.median(v) for k, v in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "compile_seconds": compile_seconds,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    rates = ", ".join(f"{k} {v:,.0f} steps/s" for k, v in result["steps_per_second"].items())
    print(f"{rates}; ours / JaxMARL's: {result['ratio']:.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")


if __name__ == "__main__":
    main()
