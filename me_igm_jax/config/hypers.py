"""Hyperparameters that several learners have: traced floats, so any of them can be swept.

A learner's hyperparameters are a class that inherits what it reads:
`@hypers class IqlHypers(LearningRate, TdLambda, Epsilon, TargetRate, Hypers)`.
"""

from typing import Any

from .options import hypers, option
from .registry import family_of


def gives_shaping(config: Any) -> bool:
    """The environment gives a shaped reward."""
    family, name = family_of(config.env)
    return family.shaped(name)


def temperature_is(*rules: str):
    """A predicate for `when`: the learner's option `temperature` is one of `rules`."""
    return lambda config: getattr(config.algo, "temperature", None) in rules


@hypers
class Hypers:
    """What the training loop reads. Every learner's hyperparameters inherit from it."""

    reward_scale: float = option(
        1.0, "Multiplies the rewards that are learned from; evaluation never does.", above=0
    )
    shaping: float = option(
        1.0,
        "Weight of the shaped reward at the start; evaluation never counts it.",
        low=0,
        when=gives_shaping,
    )
    shaping_steps: float = option(
        1_000_000.0,
        "Environment steps over which that weight falls linearly to zero.",
        above=0,
        when=gives_shaping,
    )


@hypers
class LearningRate:
    """Steps along the gradient."""

    lr: float = option(1e-3, "Learning rate at the start.", above=0)
    lr_decay: float = option(
        1.0, "Share of the learning rate that is left after lr_steps; 1 keeps it constant.", low=0, high=1
    )
    lr_steps: float = option(
        1_000_000.0, "Environment steps over which the learning rate falls linearly.", above=0
    )
    max_grad_norm: float = option(
        10.0, "Global gradient norm above which gradients are scaled down.", above=0
    )


@hypers
class CriticRate:
    """Critics with an optimiser apart from the actor's."""

    critic_lr: float = option(5e-4, "Learning rate of the critics at the start.", above=0)


@hypers
class Gamma:
    """Discounting."""

    gamma: float = option(0.99, "Discount factor.", low=0, high=1)


@hypers
class TdLambda(Gamma):
    """Lambda-returns."""

    td_lambda: float = option(
        0.4, "Mixing factor of the lambda-return; 0 is the one-step target.", low=0, high=1
    )


@hypers
class TargetRate:
    """Target networks."""

    tau: float = option(
        1.0,
        "Share of the online weights that enters the target networks at each refresh; 1 is a hard copy.",
        low=0,
        high=1,
    )


@hypers
class Epsilon:
    """Exploration by random actions."""

    eps_start: float = option(1.0, "Exploration rate at the start.", low=0, high=1)
    eps_end: float = option(0.05, "Exploration rate at the end.", low=0, high=1)
    eps_steps: float = option(
        100_000.0, "Environment steps over which the exploration rate falls linearly.", above=0
    )


@hypers
class Temperature:
    """The weight alpha of the entropy: fixed, annealed or learned, as the option `temperature` says."""

    alpha: float = option(1.0, "Temperature at the start; the fixed one when it never changes.", above=0)
    alpha_lr: float = option(
        0.3,
        "Step size of the learned temperature, on log alpha.",
        above=0,
        when=temperature_is("sgd", "adam"),
    )
    target_entropy: float = option(
        0.24,
        "Entropy that the learned temperature aims at, in nats per agent.",
        when=temperature_is("sgd", "adam"),
    )
    alpha_end: float = option(
        0.03,
        "Temperature at the end, when it is annealed.",
        above=0,
        when=temperature_is("anneal", "linear"),
    )
    alpha_steps: float = option(
        20_000.0,
        "Environment steps over which the temperature falls, when it is annealed.",
        above=0,
        when=temperature_is("anneal", "linear"),
    )
