"""JaxMARL's own recurrent QMIX and ours on identical work, taking turns.

    python benchmarks/vs_jaxmarl.py --jaxmarl ~/JaxMARL --python ~/JaxMARL/.venv/bin/python

`--jaxmarl` is a checkout of JaxMARL (none of it is shipped here), `--python` an interpreter with its
baselines' requirements. The work: smacv2_5_units, hidden 64, mixer 32, hyper-networks 64, 16 environments
x 128 steps, then 8 updates of 32 sequences of 128 steps, float32. Every contestant is a process that
compiles once and then trains when it is its turn. Timed are iterations that learn: JaxMARL's buffer gives
no sample before its 32nd iteration, so its time is that of a run of 32 + n iterations less one of 32;
ours is that of n iterations after the warm-up. JaxMARL's batched seeds can deadlock on two cores, so it
runs one seed unless `--their-seeds` says otherwise.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

from workers import Worker, serve

OUT = Path(__file__).parent / "results" / "vs_jaxmarl.json"
SCENARIO = "smacv2_5_units"


STEPS = 16 * 128  # environment steps of one iteration
SILENT = 32  # iterations before JaxMARL's buffer gives its first sample


def jaxmarl_trainer(checkout: str, iterations: int, seeds: int):
    """turn() -> seconds of `iterations` of JaxMARL's qmix_rnn.py that learn; its compilation seconds."""
    os.environ["WANDB_MODE"] = "disabled"
    sys.path.insert(0, str(Path(checkout, "baselines", "QLearning")))
    import jax
    import qmix_rnn  # pyright: ignore[reportMissingImports]

    options = {"see_enemy_actions": True, "walls_cause_death": True, "attack_mode": "closest"}
    config = {
        "ENV_NAME": "HeuristicEnemySMAX", "MAP_NAME": SCENARIO, "ENV_KWARGS": options,
        "NUM_ENVS": 16, "NUM_STEPS": 128, "NUM_EPOCHS": 8,
        "BUFFER_SIZE": 5000, "BUFFER_BATCH_SIZE": 32, "LEARNING_STARTS": 4000,
        "HIDDEN_SIZE": 64, "MIXER_EMBEDDING_DIM": 32, "MIXER_HYPERNET_HIDDEN_DIM": 64,
        "MIXER_INIT_SCALE": 0.001, "EPS_START": 1.0, "EPS_FINISH": 0.05, "EPS_DECAY": 0.1,
        "MAX_GRAD_NORM": 10, "TARGET_UPDATE_INTERVAL": 10, "TAU": 1.0, "LR": 5e-4,
        "LR_LINEAR_DECAY": False, "GAMMA": 0.99, "REW_SCALE": 10.0,
        "TEST_DURING_TRAINING": False, "TEST_NUM_ENVS": 16, "TEST_NUM_STEPS": 128, "WANDB_MODE": "disabled",
    }  # fmt: skip
    key = jax.random.PRNGKey(0) if seeds == 1 else jax.random.split(jax.random.PRNGKey(0), seeds)

    def compiled(length: int):
        run = {**config, "TOTAL_TIMESTEPS": length * STEPS, "ENV_KWARGS": dict(options)}
        env, _ = qmix_rnn.env_from_config(run)
        run["ENV_KWARGS"] = dict(options)
        train = qmix_rnn.make_train(run, env)
        return jax.jit(train if seeds == 1 else jax.vmap(train)).lower(key).compile()

    begin = time.perf_counter()
    train, silent = compiled(SILENT + iterations), compiled(SILENT)
    seconds = (time.perf_counter() - begin) / 2

    def turn() -> float:
        return timed(lambda: train(key)) - timed(lambda: silent(key))

    return turn, seconds


def timed(run) -> float:
    """Seconds until everything that run() returns is there."""
    import jax

    begin = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - begin


def our_trainer(preset: str, iterations: int, seeds: int):
    """turn() -> seconds of `iterations` of `preset`, all seeds together as the driver runs them."""
    from me_igm_jax import load
    from steady import Trainer

    trainer = Trainer(load(preset, env=f"smax/{SCENARIO}", **{"run.seeds": seeds}), iterations)
    assert trainer.steps_per_turn == STEPS * iterations * seeds
    return trainer.turn, trainer.steps.seconds


def work(options) -> None:
    """A contestant: compile, then take a turn for every line on standard input."""
    if options.worker == "jaxmarl":
        turn, compile_seconds = jaxmarl_trainer(options.jaxmarl, options.iterations, options.seeds)
    else:
        turn, compile_seconds = our_trainer(options.worker, options.iterations, options.seeds)
    import jax

    device = jax.devices()[0].device_kind
    serve({"compile_seconds": compile_seconds, "jax": jax.__version__, "device": device}, turn)


class Contestant(Worker):
    """A worker process; `race()` has it train and notes its environment steps per second."""

    def __init__(self, name: str, python: str, seeds: int, options):
        self.steps, self.rates = options.iterations * STEPS * seeds, []
        super().__init__(
            name,
            [python, __file__, "--worker", name, "--seeds", str(seeds), "--jaxmarl", options.jaxmarl,
             "--iterations", str(options.iterations)],
        )  # fmt: skip
        self.facts |= {"name": name, "seeds": seeds}

    def race(self) -> None:
        self.rates.append(self.steps / self.turn())

    def row(self, base: list[float]) -> dict:
        ratios = [mine / theirs for mine, theirs in zip(self.rates, base, strict=True)]
        return self.facts | {
            "steps_per_second": statistics.median(self.rates),
            "rates": self.rates,
            "ratio_to_jaxmarl": statistics.median(ratios),
            "ratios": ratios,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jaxmarl", required=True, help="a checkout of JaxMARL")
    parser.add_argument(
        "--python", default=sys.executable, help="an interpreter that can run its baselines"
    )
    parser.add_argument(
        "--iterations", type=int, default=20, help="of 2,048 steps and 8 updates, in one turn"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2], help="how many seeds of ours to run together"
    )
    parser.add_argument("--their-seeds", type=int, default=1, help="batched by vmap if more than one")
    parser.add_argument("--presets", nargs="+", default=["qmix", "me_qmix"])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        options.seeds = options.seeds[0]
        return work(options)

    contestants = [Contestant("jaxmarl", options.python, options.their_seeds, options)]
    for preset in options.presets:
        contestants += [Contestant(preset, sys.executable, seeds, options) for seeds in options.seeds]
    for _ in range(options.rounds):
        for contestant in contestants:
            contestant.race()
    rows = [c.row(contestants[0].rates) for c in contestants]
    result = {
        "command": ["python", "benchmarks/vs_jaxmarl.py", *_public(sys.argv[1:])],
        "scenario": SCENARIO,
        "iterations": options.iterations,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rows": rows,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print("| system | seeds | steps/s | x JaxMARL | compilation |\n|---|---|---|---|---|")
    for row in rows:
        low, high = min(row["ratios"]), max(row["ratios"])
        print(
            f"| {row['name']} | {row['seeds']} | {row['steps_per_second']:.0f} | "
            f"{row['ratio_to_jaxmarl']:.2f} [{low:.2f}, {high:.2f}] | {row['compile_seconds']:.0f} s |"
        )


def _public(arguments: list[str]) -> list[str]:
    """The command line without anybody's paths."""
    hidden = {"--jaxmarl": "JAXMARL", "--python": "PYTHON", "--out": "OUT"}
    return [hidden.get(before, word) for before, word in zip(["", *arguments], arguments, strict=False)]


if __name__ == "__main__":
    main()
