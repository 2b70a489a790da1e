"""JaxMARL's own MAPPO on SMAX and ours with its published settings: the same steps, win rates side by side.

    python benchmarks/mappo_vs_jaxmarl.py --jaxmarl ~/JaxMARL --python ~/JaxMARL/.venv/bin/python

`--jaxmarl` is a checkout of JaxMARL (none of it is shipped here), `--python` an interpreter with its
baselines' requirements. Its mappo_rnn_smax.py runs as published but for the steps, one seed after the
other, ours is the preset `mappo_jaxmarl`; both anneal the learning rate over the run. Both final policies
then play greedily, each in its own library's environment. Writes results/mappo_vs_jaxmarl.json after each.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

OUT = Path(__file__).parent / "results" / "mappo_vs_jaxmarl.json"
ENVS, LENGTH = 128, 128  # of one collection: NUM_ENVS, NUM_STEPS


def train_jaxmarl(checkout: str, scenario: str, steps: int, seed: int, episodes: int) -> dict:
    """Its training and its greedy win rate; `curve` is its own log, of the policy that explores."""
    sys.path.insert(0, str(Path(checkout, "baselines", "MAPPO")))
    import jax
    import mappo_rnn_smax as theirs  # pyright: ignore[reportMissingImports]

    logged: list[dict] = []
    theirs.wandb = SimpleNamespace(log=logged.append)
    options = {"see_enemy_actions": True, "walls_cause_death": True, "attack_mode": "closest"}
    config = {
        "LR": 0.002, "NUM_ENVS": ENVS, "NUM_STEPS": LENGTH, "TOTAL_TIMESTEPS": steps,
        "FC_DIM_SIZE": 128, "GRU_HIDDEN_DIM": 128, "UPDATE_EPOCHS": 4, "NUM_MINIBATCHES": 4,
        "GAMMA": 0.99, "GAE_LAMBDA": 0.95, "CLIP_EPS": 0.2, "SCALE_CLIP_EPS": False, "ENT_COEF": 0.0,
        "VF_COEF": 0.5, "MAX_GRAD_NORM": 0.25, "ACTIVATION": "relu", "OBS_WITH_AGENT_ID": True,
        "ENV_NAME": "HeuristicEnemySMAX", "MAP_NAME": scenario, "ENV_KWARGS": options, "ANNEAL_LR": True,
    }  # fmt: skip
    begin = time.perf_counter()
    out = jax.block_until_ready(jax.jit(theirs.make_train(config))(jax.random.PRNGKey(seed)))
    seconds = time.perf_counter() - begin
    params = out["runner_state"][0][0][0].params
    won = greedy_battles(theirs, config, params, jax.random.PRNGKey(1000 + seed), episodes)
    curve = [{k: float(row[k]) for k in ("env_step", "win_rate")} for row in logged]
    return {"seed": seed, "won": float(won.mean()), "seconds": seconds, "curve": curve}


def greedy_battles(theirs, config: dict, params, key, episodes: int):
    """Whether the first battle in each of `episodes` environments was won, by the likeliest actions."""
    import jax
    import jax.numpy as jnp

    scenario = theirs.map_name_to_scenario(config["MAP_NAME"])
    env = theirs.HeuristicEnemySMAX(scenario=scenario, **config["ENV_KWARGS"])
    env = theirs.SMAXLogWrapper(theirs.SMAXWorldStateWrapper(env, config["OBS_WITH_AGENT_ID"]))
    actor = theirs.ActorRNN(env.action_space(env.agents[0]).n, config=config)
    rows = env.num_agents * episodes

    def step(loop, key):
        obs, state, done, hidden, ended, won = loop
        avail = theirs.batchify(jax.vmap(env.get_avail_actions)(state.env_state), env.agents, rows)
        inputs = (theirs.batchify(obs, env.agents, rows)[None], done[None], avail)
        hidden, policy = actor.apply(params, hidden, inputs)
        action = theirs.unbatchify(policy.mode()[0], env.agents, episodes, env.num_agents)
        action = {k: v.squeeze() for k, v in action.items()}
        obs, state, _, done, info = jax.vmap(env.step)(jax.random.split(key, episodes), state, action)
        now = info["returned_episode"][:, 0]
        won = jnp.where(now & ~ended, info["returned_won_episode"][:, 0], won)
        done = theirs.batchify(done, env.agents, rows).squeeze()
        return (obs, state, done, hidden, ended | now, won), None

    def play(key):
        reset_key, key = jax.random.split(key)
        obs, state = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))
        hidden = theirs.ScannedRNN.initialize_carry(rows, config["GRU_HIDDEN_DIM"])
        none = jnp.zeros(episodes, bool)
        start = (obs, state, jnp.zeros(rows, bool), hidden, none, jnp.zeros(episodes))
        # A battle lasts a hundred steps at the most.
        return jax.lax.scan(step, start, jax.random.split(key, 128))[0][-2:]

    ended, won = jax.jit(play)(key)
    assert ended.all()
    return won


def jaxmarl_row(options) -> dict:
    """Every seed in a process of its own."""
    runs = []
    for seed in range(options.seeds):
        command = [options.python, __file__, "--worker", str(seed), "--jaxmarl", options.jaxmarl]
        command += ["--scenario", options.scenario, "--steps", str(options.steps)]
        command += ["--episodes", str(options.episodes)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {"command": "mappo_rnn_smax.py", "per_seed": [r["won"] for r in runs], "runs": runs}


def our_row(options) -> dict:
    from runs import train

    words = (
        f"--preset mappo_jaxmarl --env smax/{options.scenario} --run.seeds {options.seeds} --run.evals 10"
    )
    words += f" --run.total-steps {options.steps} --hypers.lr-steps {options.steps}"
    run = train([*words.split(), "--run.final-eval-episodes", str(options.episodes)])
    won = run.summary["points"][0]["won"]["per_seed"]
    curve = [{k: row[k] for k in ("seed", "env_steps", "won")} for row in run.rows]
    return {
        "command": run.command, "per_seed": won, "seconds": run.seconds, "cpu_seconds": run.cpu_seconds,
        "versions": run.manifest["versions"], "curve": curve,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jaxmarl", required=True, help="a checkout of JaxMARL")
    parser.add_argument(
        "--python", default=sys.executable, help="an interpreter that can run its baselines"
    )
    parser.add_argument("--scenario", default="3m")
    parser.add_argument("--steps", type=int, default=30 * ENVS * LENGTH, help="of each seed")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=256, help="greedy battles of each final policy")
    parser.add_argument("--rows", nargs="+", default=["jaxmarl", "ours"], choices=["jaxmarl", "ours"])
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        row = train_jaxmarl(
            options.jaxmarl, options.scenario, options.steps, options.worker, options.episodes
        )
        return print(json.dumps(row))
    result = json.loads(OUT.read_text()) if OUT.exists() else {}
    measures = {"jaxmarl": jaxmarl_row, "ours": our_row}
    for name in options.rows:
        key = f"{options.scenario}, {options.steps} steps"
        row = measures[name](options) | {"cores": os.cpu_count(), "episodes": options.episodes}
        result.setdefault(key, {})[name] = row
        OUT.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{key}: {name} {row['per_seed']}", flush=True)


if __name__ == "__main__":
    main()
