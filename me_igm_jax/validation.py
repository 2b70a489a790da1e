"""Which settings can work together. What depends on the environment is checked where it is known."""

from .config import Config, ConfigError


def validate(config: Config) -> Config:
    """Return `config`, or raise a ConfigError that names the first setting that cannot work."""

    def check(ok: bool, key: str, value, rule: str) -> None:
        if not ok:
            raise ConfigError(f"{key}={value}: {rule}")

    for section in ("algo", "net", "collect", "replay", "run", "matrix", "smax", "overcooked", "jaxmarl"):
        for field, value in vars(getattr(config, section)).items():
            low = 0 if field in ("seed", "checkpoint_every") else 1
            ok = type(value) is not int or value >= low
            check(ok, f"{section}.{field}", value, f"must be at least {low}")
    for key in ("gamma", "td_lambda", "tau", "eps_start", "eps_end", "optimistic_weight", "lr_decay"):
        value = getattr(config.hypers, key)
        check(0 <= value <= 1, f"hypers.{key}", value, "must lie in [0, 1]")
    for key in ("lr", "lr_steps", "max_grad_norm", "alpha", "alpha_end", "alpha_steps", "eps_steps",
        "shaping_steps", "nopt_weight",
    ):  # fmt: skip
        value = getattr(config.hypers, key)
        check(value > 0, f"hypers.{key}", value, "must be positive")

    a, c, r = config.algo, config.collect, config.replay
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
    warmup = r.batch if r.warmup is None else r.warmup
    check(
        1 <= warmup <= r.capacity, "replay.warmup", warmup,
        f"must lie between 1 and replay.capacity={r.capacity}",
    )  # fmt: skip
    return config
