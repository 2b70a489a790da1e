"""Options and hyperparameters of PAC (`pac.py`)."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from ..config import Config, ConfigError, Hypers, hypers, option
from ..config.hypers import (
    CriticRate,
    Epsilon,
    LearningRate,
    TargetRate,
    TdLambda,
    Temperature,
    temperature_is,
)
from ..config.registry import MIXERS, part_fields


def mixer_has(field: str) -> Callable[[Any], bool]:
    """A predicate for `when`: the class of the mixer has this field."""
    return lambda config: field in part_fields(MIXERS.get(config.algo.mixer))


@dataclasses.dataclass(frozen=True)
class PacOptions:
    """Options of PAC."""

    message: int = option(3, "Numbers that each agent tells each agent while learning.", low=1)
    mixer: str = option("qmix", "How utilities become Q_tot; not qplex.", registry=MIXERS)
    mixing_embed: int = option(
        32, "Width of the mixer's mixing layer.", low=1, when=mixer_has("mixing_embed")
    )
    hyper_embed: int = option(
        64, "Hidden width of the mixer's hyper-networks.", low=1, when=mixer_has("hyper_embed")
    )
    qatten_heads: int = option(4, "Attention heads of Qatten.", low=1, when=mixer_has("qatten_heads"))
    central_embed: int = option(256, "Hidden width of the central critic's mixing network.", low=1)
    weighting: Literal["uniform", "optimistic", "centrally"] = option(
        "uniform", "TD weights: 1, or Weighted QMIX's, optimistic or central."
    )
    temperature: Literal["fixed", "anneal", "linear", "sgd", "adam"] = option(
        "fixed",
        "Fixed, falling over hypers.alpha_steps (anneal: geometrically), or learned on log alpha (sgd, "
        "adam).",
    )
    target_entropy: Literal["given", "actions"] = option(
        "actions",
        "Entropy that a learned temperature aims at: hypers.target_entropy, or -|A| per agent (released "
        "code). The latter is below the entropy of every policy, so that the temperature always falls.",
        when=temperature_is("sgd", "adam"),
    )
    target_interval: int = option(200, "Episodes between two refreshes of the target networks.", low=1)
    optimiser: Literal["adam", "rmsprop"] = option(
        "adam", "What turns gradients into steps: Adam, or PyTorch's RMSprop with decay 0.99."
    )

    def check(self, config: Config) -> None:
        """Raise ConfigError when PAC cannot use the mixer."""
        if self.mixer == "qplex":
            raise ConfigError("algo.mixer=qplex: pac also mixes means over actions; use algo.mixer=qmix")


@hypers
class PacHypers(LearningRate, CriticRate, TdLambda, TargetRate, Epsilon, Temperature, Hypers):
    """Hyperparameters of PAC."""

    target_entropy: float = option(
        0.24,
        "Entropy that the learned temperature aims at, in nats per agent.",
        when=lambda config: (
            config.algo.target_entropy == "given" and config.algo.temperature in ("sgd", "adam")
        ),
    )
    alpha_end: float = option(
        0.03, "Floor of the temperature; where it ends, when it is annealed.", above=0
    )
    optimistic_weight: float = option(
        0.1,
        "Weighted QMIX's lower weight: of over-estimates or of poor joint actions; 1 is no weighting.",
        low=0,
        high=1,
        when=lambda config: config.algo.weighting != "uniform",
    )
    message_weight: float = option(0.01, "Weight of the messages' loss beside the critics' losses.", low=0)
    message_beta: float = option(
        1e-3, "Weight of the messages' information, in nats, beside the loss of the prediction.", low=0
    )
