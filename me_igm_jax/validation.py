"""Which settings can work together. What depends on the environment is checked where it is known."""

from collections.abc import Callable

from .config import Config, ConfigError
from .config.algos import ON_POLICY


def validate(config: Config) -> Config:
    """Return `config`, or raise a ConfigError that names the first setting that cannot work."""

    def check(ok: bool, key: str, value, rule: str) -> None:
        if not ok:
            raise ConfigError(f"{key}={value}: {rule}")

    for section, options in vars(config).items():
        if section in ("preset", "env", "hypers"):
            continue
        for field, value in vars(options).items():
            low = 0 if field in ("seed", "first_seed", "checkpoint_every") else 1
            ok = type(value) is not int or value >= low
            check(ok, f"{section}.{field}", value, f"must be at least {low}")
    run = config.run
    check(run.dir is not None or not run.distributed, "run.dir", None, "run.distributed needs one for all")
    for key in ("gamma", "td_lambda", "tau", "eps_start", "eps_end", "optimistic_weight", "lr_decay",
        "trace", "off_policy",
    ):  # fmt: skip
        value = getattr(config.hypers, key)
        check(0 <= value <= 1, f"hypers.{key}", value, "must lie in [0, 1]")
    for key in ("lr", "lr_steps", "max_grad_norm", "alpha", "alpha_end", "alpha_steps", "eps_steps",
        "reward_scale", "shaping_steps", "nopt_weight", "critic_lr", "clip", "huber_delta",
    ):  # fmt: skip
        value = getattr(config.hypers, key)
        check(value > 0, f"hypers.{key}", value, "must be positive")

    a, c, r = config.algo, config.collect, config.replay
    n = run.devices_per_seed or 1
    check(r.batch % n == 0, "run.devices_per_seed", n, f"must divide replay.batch={r.batch}")
    check(n == 1 or not run.distributed, "run.devices_per_seed", n, "must be 1 with run.distributed")
    for ok, field, rule in (
        (a.opt_layers in (1, 2), "opt_layers", "is 1 or 2"),
        (a.transform == "identity" or a.policy == "softmax", "policy", "must be softmax with a transform"),
        (a.weighting != "centrally" or a.central_critic, "weighting", "needs algo.central_critic=true"),
        (a.fit == "td" or a.central_critic, "fit", "needs algo.central_critic=true"),
        (a.fit == "td" or a.weighting == "uniform", "weighting", f"must be uniform with algo.fit={a.fit}"),
    ):
        check(ok, f"algo.{field}", getattr(a, field), rule)
    check(
        config.updates_per_iteration >= 1
        and config.updates_per_iteration * config.envs_per_update == c.envs,
        "collect.envs", c.envs,
        f"must be a multiple of {config.envs_per_update:g}, the sequences collected per update",
    )  # fmt: skip
    check(
        r.capacity % c.envs == 0, "replay.capacity", r.capacity,
        f"must be a multiple of collect.envs={c.envs}",
    )  # fmt: skip
    rule = "replay.store=states keeps no observations that could be rounded"
    check(r.store != "states" or r.dtype == "float32", "replay.dtype", r.dtype, rule)
    warmup = r.batch if r.warmup is None else r.warmup
    check(
        1 <= warmup <= r.capacity, "replay.warmup", warmup,
        f"must lie between 1 and replay.capacity={r.capacity}",
    )  # fmt: skip
    if a.learner in ON_POLICY:
        check_on_policy(config, check)
    return config


def check_on_policy(config: Config, check: Callable[..., None]) -> None:
    """One update takes all of a collection, which the policy that learns from it made by itself."""
    c, r, h, parts = config.collect, config.replay, config.hypers, config.ppo.minibatches
    unit, size = ("episodes", c.envs) if c.mode == "episodes" else ("transitions", c.envs * c.length)
    key = f"{unit}_per_update"
    rule = f"must be collect.envs={c.envs}, as nothing older is learned from"
    check(r.capacity == c.envs, "replay.capacity", r.capacity, rule)
    rule = f"must be {size}, all that is collected at a time"
    check(config.updates_per_iteration == 1, f"collect.{key}", getattr(c, key), rule)
    check(c.envs % parts == 0, "ppo.minibatches", parts, f"must divide collect.envs={c.envs}")
    for key in ("eps_start", "eps_end"):
        value = getattr(h, key)
        check(value == 0, f"hypers.{key}", value, "must be 0: the policy explores by itself")
