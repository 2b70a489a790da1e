"""me-igm: the command line. The options of train and sweep are the fields of `config.Config`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .config import Config, ConfigError, load, nearest, preset_names
from .config.arguments import Parser, parse_config
from .config.presets import grid_axes, readable_hypers
from .config.registry import (
    AGENTS,
    LEARNERS,
    MIXERS,
    TRANSFORMS,
    allow,
    env_names,
    import_plugins,
    plugins_of_environment,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Bad input is one line on stderr and exit status 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print("usage: me-igm COMMAND [options]      (me-igm COMMAND --help for its options)\n")
        print("\n".join(f"  {name:7} {what}" for name, (_, what) in COMMANDS.items()))
        sys.exit(0 if args else 2)
    try:
        if args[0] not in COMMANDS:
            raise ConfigError(f"command '{args[0]}': unknown{nearest(args[0], COMMANDS)}")
        import_plugins(plugins_of_environment())
        COMMANDS[args[0]][0](args[1:])
    except ConfigError as error:
        print(f"me-igm: {error}", file=sys.stderr)
        sys.exit(2)


# -- training -------------------------------------------------------------------------------------


def train(args: list[str]) -> None:
    """me-igm train --preset P --env E [--section.key value ...] | --resume DIR"""
    parser = Parser("me-igm train", add_help=False)
    parser.add_argument("--resume", type=Path)
    options, rest = parser.parse_known_args(args)
    if options.resume is None:
        return _run(parse_config("me-igm train", rest), {})
    rest = _allowed_plugins(rest)
    if rest:
        raise ConfigError(f"--resume continues a run as it was; it takes no {rest[0]}")
    from .runner.loading import resumable

    config, grid = resumable(options.resume)
    _run(config, grid, resume=True)


def sweep(args: list[str]) -> None:
    """me-igm sweep --preset P --env E --grid hypers.KEY=V1,V2 [--grid ...] [--section.key value ...]

    In jobs: [--launcher slurm|local --jobs K [--slurm KEY=VALUE ...] [--no-wait]]; again: --resume DIR
    """
    parser = Parser("me-igm sweep", add_help=False)
    add = parser.add_argument
    add("--grid", action="append", default=[], help="hypers.KEY=V1,V2,...: values to sweep; repeatable")
    add("--launcher", choices=("slurm", "local"), help="train in jobs: on a cluster, or processes here")
    add("--jobs", type=int, default=1, help="how many jobs share the points, or the seeds")
    add("--slurm", action="append", default=[], help="KEY=VALUE: an option of sbatch; repeatable")
    add("--no-wait", action="store_true", help="return when the jobs are submitted")
    add("--resume", type=Path, help="the directory of a sweep in jobs: submit again what has not finished")
    options, rest = parser.parse_known_args(args)
    if "--help" in rest or "-h" in rest:
        parser.print_help()
    slurm = {key: value for key, _, value in (text.partition("=") for text in options.slurm)}
    if options.resume is not None:
        if _allowed_plugins(rest) or options.grid or options.launcher or options.jobs != 1:
            raise ConfigError("--resume continues a sweep as it was; beside it go --slurm and --no-wait")
        return _wait(options.resume, slurm, options.no_wait)
    config = parse_config("me-igm sweep", rest)
    grid = dict(_grid_axis(text, config) for text in options.grid)
    if options.launcher:
        from .runner.launch import launch

        directory = launch(config, grid, options.jobs, options.launcher, slurm)
        return _wait(directory, None, options.no_wait, config.run.progress)
    if options.jobs != 1 or slurm or options.no_wait:
        raise ConfigError("--jobs, --slurm and --no-wait: need --launcher slurm or local")
    if not grid:
        raise ConfigError("--grid: needs at least one hypers.KEY=V1,V2,...")
    _run(config, grid)


def merge(args: list[str]) -> None:
    """me-igm merge DIR"""
    parser = _parser("merge")
    parser.add_argument("run", type=Path, help="the directory of a sweep in jobs")
    _merge(_parse(parser, args).run)


def _grid_axis(text: str, config: Config) -> tuple[str, list[float]]:
    key, found, values = text.partition("=")
    section, _, field = key.partition(".")
    field = field.replace("-", "_")
    if not found or section != "hypers":
        raise ConfigError(f"--grid {text}: must read hypers.KEY=V1,V2,...")
    try:
        axis = [float(v) for v in values.split(",")]
    except ValueError:
        raise ConfigError(f"--grid {text}: the values must be numbers") from None
    if not hasattr(config.hypers, field):
        raise ConfigError(f"--grid {text}: unknown key{nearest(field, readable_hypers(config))}")
    return field, grid_axes(config, {field: axis})[field]


def _run(config: Config, grid: dict[str, list[float]], resume: bool = False) -> None:
    from .runner.experiment import run

    result = run(config, grid, resume)
    if result.interrupted:
        sys.exit(130)
    if result.summary:
        _report(result.summary, result.directory)


def _wait(directory: Path, slurm: dict | None, no_wait: bool, progress: bool = True) -> None:
    """Submit again if `slurm` is given, wait for the jobs and merge them."""
    from .runner.launch import relaunch, wait

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
    from .runner.launch import unfinished
    from .runner.merge import merge

    lines = unfinished(directory)
    if lines:
        print("\n".join(f"me-igm: {line}" for line in lines), file=sys.stderr)
        print(f"continue with: me-igm sweep --resume {directory}", file=sys.stderr)
        sys.exit(1)
    _report(merge(directory), directory)


# -- using runs -----------------------------------------------------------------------------------


def evaluate(args: list[str]) -> None:
    """me-igm eval DIR [--episodes N] [--seed K]"""
    parser = _parser("eval")
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--episodes", type=int, default=1000, help="episodes of each seed, exactly")
    parser.add_argument("--seed", type=int, default=1, help="key of the fresh episodes")
    options = _parse(parser, args)
    if options.episodes < 1:
        raise ConfigError(f"--episodes={options.episodes}: must be at least 1")
    from .runner.loading import evaluate_run

    for point in evaluate_run(options.run, options.episodes, options.seed)["points"]:
        for name in (k for k, v in point.items() if isinstance(v, dict) and "mean" in v):
            print(_swept(point) + _interval(name, point[name]["mean"], point[name]["mean_interval"]))


def plot(args: list[str]) -> None:
    """me-igm plot DIR [DIR ...] [--metric NAME] [--out FILE]"""
    parser = _parser("plot")
    parser.add_argument("runs", type=Path, nargs="+", help="run directories")
    parser.add_argument("--metric", help="column of metrics.jsonl; by default won, else return")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="file to write")
    options = _parse(parser, args)
    if options.out.suffix not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"--out {options.out}: must end in .png, .pdf or .svg")
    from .report.plots import plot as draw

    print(draw(options.runs, options.metric, options.out))


def render(args: list[str]) -> None:
    """me-igm render DIR | --env E [--out FILE.gif] [--member K] [--seed K]"""
    parser = _parser("render")
    parser.add_argument("run", type=Path, nargs="?", help="run directory; its greedy team plays")
    parser.add_argument("--env", help="an environment; a random team plays")
    parser.add_argument("--out", type=Path, default=Path("episode.gif"), help="file to write")
    parser.add_argument("--member", type=int, default=0, help="which of the run: point * seeds + seed")
    parser.add_argument("--seed", type=int, default=1, help="key of the episode")
    options = _parse(parser, args)
    if (options.run is None) == (options.env is None):
        raise ConfigError("me-igm render: needs either a run directory or --env")
    if options.out.suffix != ".gif" or not options.out.parent.is_dir():
        raise ConfigError(f"--out {options.out}: must end in .gif, in a directory that exists")
    from .report.gif import render_random, render_run

    if options.run is not None:
        print(render_run(options.run, options.out, options.member, options.seed))
    else:
        print(render_random(load(env=options.env, plugins=options.plugin), options.out, options.seed))


def show(args: list[str]) -> None:
    """me-igm list"""
    _parse(_parser("list"), args)
    kinds = {"learners": LEARNERS, "mixers": MIXERS, "transforms": TRANSFORMS, "agents": AGENTS}
    lists = {"presets": preset_names(), "environments": env_names()}
    lists |= {kind: registry.names() for kind, registry in kinds.items()}
    for kind, names in lists.items():
        print(f"{kind}\n" + "\n".join(f"  {name}" for name in names))


COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "train": (train, "train one preset on one environment, or continue a run (--resume DIR)"),
    "sweep": (
        sweep,
        "train a grid of hyperparameters times seeds in one program (--grid hypers.lr=1e-4,5e-4)",
    ),
    "merge": (merge, "put the jobs of a launched sweep together as one run directory"),
    "eval": (evaluate, "evaluate a finished run's greedy policies on fresh episodes"),
    "plot": (plot, "draw learning curves of one or more runs"),
    "render": (render, "one episode of a run's greedy team, or of a random team (--env), as a GIF"),
    "list": (show, "list presets, environments, and the parts that a setting can name"),
}


# -- parsing and printing -------------------------------------------------------------------------


def _parser(command: str) -> Parser:
    parser = Parser(f"me-igm {command}", description=COMMANDS[command][1])
    text = "a module that registers parts, or that a run directory names; repeatable"
    parser.add_argument("--plugin", action="append", default=[], help=text)
    return parser


def _parse(parser: Parser, args: list[str]):
    options = parser.parse_args(args)
    _import(options.plugin)
    return options


def _allowed_plugins(args: list[str]) -> list[str]:
    """Import what --plugin names; returns the other arguments."""
    parser = Parser("me-igm", add_help=False)
    parser.add_argument("--plugin", action="append", default=[])
    options, rest = parser.parse_known_args(args)
    _import(options.plugin)
    return rest


def _import(modules: list[str]) -> None:
    for module in modules:
        allow(module)
    import_plugins(modules)


def _swept(point: dict) -> str:
    return "".join(f"{k}={v:g} " for k, v in point["point"].items())


def _interval(name: str, mean: float | None, interval: Sequence[float] | None) -> str:
    if mean is None:
        return f"{name}: not a number"
    if interval is None:
        return f"{name}: {mean:.3f} (no interval over seeds)"
    low, high = interval
    return f"{name}: {mean:.3f}, 95% interval over seeds [{low:.3f}, {high:.3f}]"


def _report(summary: dict, directory: Path) -> None:
    for point in summary["points"]:
        for name in ("won", "return"):
            if name in point:
                text = _interval(f"greedy {name}", point[name]["mean"], point[name]["mean_interval"])
                print(_swept(point) + text)
        if "optimal_rate" in point:
            low, high = point["optimal_interval"]
            rate = f"optimal rate: {point['optimal_rate']:.3f}, 95% interval [{low:.3f}, {high:.3f}]"
            print(_swept(point) + rate)
    print(f"run: {directory}")
