"""Settings of FOP: the options and hyperparameters of `fop` and `fop_continuous`."""

import dataclasses
from typing import Any, Literal

from ..config import Hypers, hypers, option
from ..config.hypers import CriticRate, LearningRate, TargetRate, TdLambda, Temperature


def factorises(config: Any) -> bool:
    """Q_jt has lambda_i."""
    return config.algo.form != "linear"


def attends(config: Any) -> bool:
    """Q_jt weighs every Q_i by attention."""
    return config.algo.form == "released" and config.algo.attention


@dataclasses.dataclass(frozen=True)
class FactorisationOptions:
    """What FOP has for discrete and for continuous actions: parts of the paper, or of the released code."""

    form: Literal["paper", "released"] = option(
        "paper", "lambda_i weighs the gradient of Q_jt to Q_i, or only the value of Q_jt (released)."
    )
    attention: bool = option(
        False,
        "Weigh every Q_i by attention over the agents (second release), or by 1 (first release).",
        when=lambda config: config.algo.form == "released",
    )
    temperatures: Literal["ratio", "shared"] = option(
        "ratio", "alpha_i: alpha times the ratio of the paper's section 4.3, or alpha (released)."
    )
    heads: int = option(4, "Heads of the lambda networks, and of the attention.", low=1, when=factorises)
    layers: int = option(
        1, "Layers of the key, agent and action networks in lambda_i.", low=1, when=factorises
    )
    mixing_embed: int = option(
        32, "Hidden width of V_jt (linear: of k and b); width of the attention's queries and keys.", low=1
    )
    hyper_embed: int = option(
        64,
        "Hidden width of the lambda networks and of the attention's queries.",
        low=1,
        when=lambda config: attends(config) or (factorises(config) and config.algo.layers > 1),
    )
    optimiser: Literal["adam", "rmsprop"] = option(
        "adam", "What turns gradients into steps: Adam, or PyTorch's RMSprop with decay 0.99."
    )
    temperature: Literal["fixed", "anneal", "linear", "sgd", "adam"] = option(
        "fixed",
        "alpha: fixed, falling over hypers.alpha_steps (anneal: geometrically), or learned on log alpha.",
    )
    target_interval: int = option(200, "Episodes between two refreshes of the target networks.", low=1)


@dataclasses.dataclass(frozen=True)
class FopOptions(FactorisationOptions):
    """Options of the learner `fop`."""

    entropy: Literal["sum", "mean"] = option(
        "sum", "sum_i log pi_i inside the return, or mean_i log pi_i added to it, undiscounted (released)."
    )
    value: Literal["network", "logsumexp"] = option(
        "network", "V_i: a network, or alpha log sum_a exp(Q_i / alpha) over all actions (released)."
    )
    twin: bool = option(False, "Two critics, of which the smaller counts (released).")


@dataclasses.dataclass(frozen=True)
class FopContinuousOptions(FactorisationOptions):
    """Options of the learner `fop_continuous`."""

    form: Literal["paper", "released", "linear"] = option(
        "paper",
        "lambda_i weighs the gradient of Q_jt to Q_i, or only the value of Q_jt (released); or the paper's "
        "ablation, DOP's sum_i k_i(s) Q_i + b(s) (linear).",
    )


@hypers
class FopHypers(LearningRate, CriticRate, TdLambda, TargetRate, Temperature, Hypers):
    """FOP's hyperparameters; critic_lr is the learning rate of Q_i, V_i and the mixer."""

    attention_penalty: float = option(
        1e-3, "Weight of the squared attention logits in the critics' loss.", low=0, when=attends
    )
