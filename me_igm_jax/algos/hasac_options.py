"""Settings of HASAC: the options and hyperparameters of the learner `hasac`."""

import dataclasses
from typing import Literal

from ..config import Config, ConfigError, Hypers, hypers, option
from ..config.hypers import CriticRate, Gamma, LearningRate, TargetRate, temperature_is

learned = temperature_is("sgd", "adam")


@dataclasses.dataclass(frozen=True)
class HasacOptions:
    """HASAC's choices."""

    n_step: int = option(
        20, "Steps of the critics' target; the entropy enters at the last of them only.", low=1
    )
    critic_hidden: int = option(256, "Width of the critics' two hidden layers.", low=1)
    huber: bool = option(False, "Huber's loss (hypers.huber_delta) in place of squares.")
    optimiser: Literal["adam", "rmsprop"] = option(
        "adam", "What turns gradients into steps: Adam, or PyTorch's RMSprop with decay 0.99."
    )
    temperature: Literal["fixed", "sgd", "adam"] = option("fixed", "Fixed, or learned on log alpha.")
    target_entropy: Literal["available", "all", "zero"] = option(
        "available",
        "Entropy that an agent's temperature aims at: hypers.entropy_share of ln(available actions), of "
        "ln|A| (the paper), or 0 (the released code). When actions are masked, no policy reaches "
        "0.98 ln|A|, and temperatures would grow for ever. A dead agent has ln 1 = 0.",
        when=learned,
    )

    def check(self, config: Config) -> None:
        """Raise ConfigError when agents would share a network."""
        for key in ("shared", "agent_id"):
            if getattr(config.net, key):
                raise ConfigError(
                    f"net.{key}=true: every agent of hasac has its network; use net.{key}=false"
                )


@hypers
class HasacHypers(LearningRate, CriticRate, Gamma, TargetRate, Hypers):
    """HASAC's hyperparameters; lr is the learning rate of every actor."""

    tau: float = option(
        0.005, "Share of the online critics that enters the target critics at every step.", low=0, high=1
    )
    alpha: float = option(1.0, "Temperatures at the start; the fixed ones when they never change.", above=0)
    alpha_lr: float = option(
        3e-4, "Step size of the learned temperatures, on log alpha.", above=0, when=learned
    )
    entropy_share: float = option(
        0.98,
        "Target entropy as a share of the largest possible one.",
        low=0,
        high=1,
        when=lambda config: learned(config) and config.algo.target_entropy != "zero",
    )
    huber_delta: float = option(
        10.0,
        "Error at which Huber's loss turns from quadratic to linear.",
        above=0,
        when=lambda config: config.algo.huber,
    )
