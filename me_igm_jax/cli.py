"""me-igm: the command line. Every option of train and sweep is a field of `config.Config`."""

import argparse
import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from .config import Config, ConfigError
from .presets import from_dict, load, nearest, preset_names, to_dict
from .validation import validate

_COMMANDS = {
    "train": "train one preset on one environment, or continue a run (--resume DIR)",
    "sweep": "train a grid of hyperparameters times seeds in one program (--grid hypers.lr=1e-4,5e-4)",
    "merge": "put the jobs of a launched sweep together as one run directory",
    "eval": "evaluate a finished run's greedy policies on fresh episodes",
    "plot": "draw learning curves of one or more runs",
    "render": "one episode of a run's greedy team, or of a random team (--env), as a GIF",
    "list": "list presets and environments",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Bad input is one line on stderr and exit status 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "train": train,
        "sweep": sweep,
        "merge": merge,
        "eval": evaluate,
        "plot": plot,
        "render": render,
        "list": show,
    }
    if not args or args[0] in ("-h", "--help"):
        print("usage: me-igm COMMAND [options]      (me-igm COMMAND --help for its options)\n")
        print("\n".join(f"  {name:6} {what}" for name, what in _COMMANDS.items()))
        sys.exit(0 if args else 2)
    try:
        if args[0] not in commands:
            raise ConfigError(f"command '{args[0]}': unknown{nearest(args[0], commands)}")
        commands[args[0]](args[1:])
    except ConfigError as error:
        print(f"me-igm: {error}", file=sys.stderr)
        sys.exit(2)


def train(args: list[str]) -> None:
    """me-igm train --preset P --env E [--section.key value ...] | --resume DIR"""
    options, rest = _known(args, "--resume")
    if options["resume"] is None:
        return _run(_parse("me-igm train", rest), {})
    if rest and "--help" not in rest:
        raise ConfigError(f"--resume continues a run as it was; it takes no {rest[0]}")
    from .checkpoint import is_resumable
    from .records import read_config

    directory = Path(options["resume"])
    config, grid = read_config(directory)
    if (directory / "summary.json").exists():
        raise ConfigError(f"{directory}: is finished; there is nothing to resume")
    if not is_resumable(directory):
        raise ConfigError(f"{directory}: holds no checkpoint that can be resumed")
    _run(config, grid, resume=True)


def sweep(args: list[str]) -> None:
    """me-igm sweep --preset P --env E --grid hypers.KEY=V1,V2 [--grid ...] [--section.key value ...]

    In jobs: [--launcher slurm|local --jobs K [--slurm KEY=VALUE ...] [--no-wait]]; again: --resume DIR
    """
    parser = _Parser(prog="me-igm sweep", add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("--grid", action="append", default=[], help="hypers.KEY=V1,V2,...: values to sweep; repeatable")
    add("--launcher", choices=("slurm", "local"), help="train in jobs: on a cluster, or processes here")
    add("--jobs", type=int, default=1, help="how many jobs share the points, or the seeds")
    add("--slurm", action="append", default=[], help="KEY=VALUE: an option of sbatch's; repeatable")
    add("--no-wait", action="store_true", help="return when the jobs are submitted")
    add("--resume", type=Path, help="the directory of a sweep in jobs: submit again what has not finished")
    options, rest = parser.parse_known_args(args)
    if "--help" in rest or "-h" in rest:
        parser.print_help()
    slurm = {key: value for key, _, value in (text.partition("=") for text in options.slurm)}
    if options.resume is not None:
        if rest or options.grid or options.launcher or options.jobs != 1:
            raise ConfigError("--resume continues a sweep as it was; beside it go --slurm and --no-wait")
        return _launch(options.resume, slurm, options.no_wait)
    config = _parse("me-igm sweep", rest)
    grid = dict(_grid_axis(text, config) for text in options.grid)
    if options.launcher:
        from .launch import launch

        directory = launch(config, grid, options.jobs, options.launcher, slurm)
        return _launch(directory, None, options.no_wait, config.run.progress)
    if options.jobs != 1 or slurm or options.no_wait:
        raise ConfigError("--jobs, --slurm and --no-wait: need --launcher slurm or local")
    if not grid:
        raise ConfigError("--grid: needs at least one hypers.KEY=V1,V2,...")
    _run(config, grid)


def merge(args: list[str]) -> None:
    """me-igm merge DIR"""
    parser = _Parser(prog="me-igm merge", description=_COMMANDS["merge"])
    parser.add_argument("run", type=Path, help="the directory of a sweep in jobs")
    _merge(parser.parse_args(args).run)


def _grid_axis(text: str, config: Config) -> tuple[str, list[float]]:
    key, found, values = text.partition("=")
    section, _, field = key.partition(".")
    names = [f.name for f in dataclasses.fields(config.hypers)]
    field = field.replace("-", "_")
    if not found or section != "hypers":
        raise ConfigError(f"--grid {text}: must read hypers.KEY=V1,V2,...")
    if field not in names:
        raise ConfigError(f"--grid {text}: unknown key{nearest(field, names)}")
    try:
        axis = [float(v) for v in values.split(",")]
    except ValueError:
        raise ConfigError(f"--grid {text}: the values must be numbers") from None
    for value in axis:
        hypers = dataclasses.replace(config.hypers, **{field: value})
        validate(dataclasses.replace(config, hypers=hypers))
    return field, axis


def evaluate(args: list[str]) -> None:
    """me-igm eval DIR [--episodes N] [--seed K]"""
    parser = _Parser(prog="me-igm eval", description=_COMMANDS["eval"])
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--episodes", type=int, default=1000, help="episodes of each seed, exactly")
    parser.add_argument("--seed", type=int, default=1, help="key of the fresh episodes")
    options = parser.parse_args(args)
    if options.episodes < 1:
        raise ConfigError(f"--episodes={options.episodes}: must be at least 1")
    from .play import evaluate_run

    for point in evaluate_run(options.run, options.episodes, options.seed)["points"]:
        swept = "".join(f"{k}={v:g} " for k, v in point["point"].items())
        for name in (k for k, v in point.items() if isinstance(v, dict) and "mean" in v):
            low, high = point[name]["mean_interval"]
            print(f"{swept}{name}: {point[name]['mean']:.3f}  95% over seeds [{low:.3f}, {high:.3f}]")


def plot(args: list[str]) -> None:
    """me-igm plot DIR [DIR ...] [--metric NAME] [--out FILE]"""
    parser = _Parser(prog="me-igm plot", description=_COMMANDS["plot"])
    parser.add_argument("runs", type=Path, nargs="+", help="run directories")
    parser.add_argument("--metric", help="column of metrics.jsonl; by default won, else return")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="file to write")
    options = parser.parse_args(args)
    if options.out.suffix not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"--out {options.out}: must end in .png, .pdf or .svg")
    from .plots import plot as draw

    print(draw(options.runs, options.metric, options.out))


def render(args: list[str]) -> None:
    """me-igm render DIR | --env E [--out FILE.gif] [--member K] [--seed K]"""
    parser = _Parser(prog="me-igm render", description=_COMMANDS["render"])
    parser.add_argument("run", type=Path, nargs="?", help="run directory; its greedy team plays")
    parser.add_argument("--env", help="an environment; a random team plays")
    parser.add_argument("--out", type=Path, default=Path("episode.gif"), help="file to write")
    parser.add_argument("--member", type=int, default=0, help="which of the run: point * seeds + seed")
    parser.add_argument("--seed", type=int, default=1, help="key of the episode")
    options = parser.parse_args(args)
    if (options.run is None) == (options.env is None):
        raise ConfigError("me-igm render: needs either a run directory or --env")
    if options.out.suffix != ".gif" or not options.out.parent.is_dir():
        raise ConfigError(f"--out {options.out}: must end in .gif, in a directory that exists")
    from .render import render_random, render_run

    if options.run is not None:
        print(render_run(options.run, options.out, options.member, options.seed))
    else:
        print(render_random(load(env=options.env), options.out, options.seed))


def show(args: list[str]) -> None:
    """me-igm list"""
    _Parser(prog="me-igm list", description=_COMMANDS["list"]).parse_args(args)
    from .envs import env_names

    print("presets\n" + "\n".join(f"  {name}" for name in preset_names()))
    print("environments\n" + "\n".join(f"  {name}" for name in env_names()))


# -- parsing --------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ConfigError(f"{self.prog}: {message}")


def _known(args: list[str], flag: str) -> tuple[dict, list[str]]:
    """Take `flag` and its value(s) out of the arguments; leave the rest to tyro."""
    parser = _Parser(prog="me-igm", add_help=False, allow_abbrev=False)
    parser.add_argument(flag)
    options, rest = parser.parse_known_args(args)
    return vars(options), rest


def _parse(prog: str, args: list[str]) -> Config:
    """The preset's config with every given option set, typed and checked by tyro."""
    first = _Parser(prog=prog, add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=Config.preset)
    first.add_argument("--env", default=Config.env)
    known, _ = first.parse_known_args(args)
    default = load(known.preset, env=known.env)
    help_wanted = any(arg in ("-h", "--help") for arg in args)
    captured = io.StringIO()
    try:
        with contextlib.nullcontext() if help_wanted else contextlib.redirect_stderr(captured):
            config = tyro.cli(
                Config, prog=prog, args=args, default=default,
                description="The options' defaults are those of the preset and environment given.",
            )  # fmt: skip
    except SystemExit as stop:
        if help_wanted:
            raise
        raise ConfigError(_one_line(captured.getvalue())) from stop
    return from_dict(to_dict(config))


def _one_line(text: str) -> str:
    """A boxed, multi-line message of tyro's as one line: its text without title, rules and helptext."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [re.sub(r"[─-╿|+]|-{3,}", " ", line).strip() for line in text.splitlines()][1:]
    text = " ".join(line for line in lines if line)
    text = re.split(r"Argument helptext|For full helptext|Perhaps you meant:(?=.*Perhaps)", text)[0]
    return re.sub(r"\s+", " ", text).strip()


def _run(config: Config, grid: dict[str, list[float]], resume: bool = False) -> None:
    from .experiment import run

    result = run(config, grid, resume)
    if result.interrupted:
        sys.exit(130)
    if result.summary:
        _report(result.summary, result.directory)


def _launch(directory: Path, slurm: dict | None, no_wait: bool, progress: bool = True) -> None:
    """Submit again if `slurm` is given, wait for the jobs and merge them."""
    from .launch import relaunch, wait

    if slurm is not None:
        relaunch(directory, slurm)
    if no_wait:
        print(f"submitted; when the jobs have ended: me-igm merge {directory}")
        return
    try:
        wait(directory, progress)
    except KeyboardInterrupt:
        print(f"\nno longer waiting; go on with: me-igm sweep --resume {directory}", file=sys.stderr)
        sys.exit(130)
    _merge(directory)


def _merge(directory: Path) -> None:
    from .launch import unfinished
    from .merge import merge

    lines = unfinished(directory)
    if lines:
        print("\n".join(f"me-igm: {line}" for line in lines), file=sys.stderr)
        print(f"continue with: me-igm sweep --resume {directory}", file=sys.stderr)
        sys.exit(1)
    _report(merge(directory), directory)


def _report(summary: dict, directory: Path) -> None:
    for point in summary["points"]:
        swept = "".join(f"{k}={v:g} " for k, v in point["point"].items())
        for name in ("won", "return"):
            if name in point:
                mean, (low, high) = point[name]["mean"], point[name]["mean_interval"]
                print(f"{swept}greedy {name}: {mean:.3f}, 95% interval over seeds [{low:.3f}, {high:.3f}]")
        if "optimal_rate" in point:
            low, high = point["optimal_interval"]
            print(f"{swept}optimal rate: {point['optimal_rate']:.3f}, 95% interval [{low:.3f}, {high:.3f}]")
    print(f"run: {directory}")
