"""Settings of the value family: the options and hyperparameters of `value` and `value_continuous`."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from ..config import ConfigError, Hypers, hypers, option
from ..config.hypers import Epsilon, LearningRate, TargetRate, TdLambda, Temperature
from ..config.registry import MIXERS, TRANSFORMS, part_fields


def softmax(config: Any) -> bool:
    """The run has a softmax policy."""
    return config.algo.policy == "softmax"


def epsilon_greedy(config: Any) -> bool:
    """The run explores epsilon-greedily."""
    return not softmax(config)


def chosen_part_has(field: str) -> Callable[[Any], bool]:
    """A predicate for `when`: the class of a part that the run uses has this field."""

    def has(config: Any) -> bool:
        options = config.algo
        parts = [MIXERS.get(options.mixer), TRANSFORMS.get(options.utility_transform)]
        if softmax(config):
            parts.append(TRANSFORMS.get(options.transform))
        return any(field in part_fields(part) for part in parts)

    return has


def narrowed(owner: type, name: str, condition: Callable[[Any], bool]) -> Any:
    """The hyperparameter `name` of the class `owner`, read only when `condition(config)` holds too."""
    field = next(field for field in dataclasses.fields(owner) if field.name == name)
    also = field.metadata["when"] or (lambda config: True)
    facts: dict[str, Any] = dict(field.metadata)
    facts["when"] = lambda config: condition(config) and also(config)
    return option(field.default, **facts)


@dataclasses.dataclass(frozen=True)
class FamilyOptions:
    """Options that the family has for discrete and for continuous actions."""

    optimiser: Literal["adam", "rmsprop"] = option(
        "adam", "What turns gradients into steps: Adam, or PyTorch's RMSprop with decay 0.99."
    )
    mixer: str = option("qmix", "How utilities become Q_tot.", registry=MIXERS)
    utility_transform: str = option(
        "identity",
        "Order-preserving map of the utilities before they are mixed (Soft-QMIX's g_i: opt_residual).",
        registry=TRANSFORMS,
    )
    policy: Literal["epsilon_greedy", "softmax"] = option(
        "epsilon_greedy",
        "How training data are collected, and which next action a target uses: a greedy or a sampled one.",
    )
    transform: str = option(
        "identity",
        "How utilities become policy logits: unchanged, order-preserving (opt, opt_two_layers), or by an "
        "unconstrained MLP (mlp, for discrete actions).",
        when=softmax,
        registry=TRANSFORMS,
    )
    temperature: Literal["fixed", "anneal", "linear", "sgd", "adam"] = option(
        "fixed",
        "Fixed; going to hypers.alpha_end, geometrically (anneal) or along a line; or learned on log "
        "alpha, by SGD or Adam.",
        when=softmax,
    )
    entropy: Literal["sample", "exact", "none"] = option(
        "sample", "Entropy in the target: -log pi of the sampled action, exact, or none.", when=softmax
    )
    central_critic: bool = option(
        False, "Bootstrap from an unrestricted central critic (Weighted QMIX, QTRAN) instead of from Q_tot."
    )
    target_interval: int = option(200, "Episodes between two refreshes of the target networks.", low=1)
    mixing_embed: int = option(
        32,
        "Width of QMIX's mixing layer, or of Qatten's queries and keys.",
        low=1,
        when=chosen_part_has("mixing_embed"),
    )
    hyper_embed: int = option(
        64, "Hidden width of every hyper-network.", low=1, when=chosen_part_has("hyper_embed")
    )
    opt_embed: int = option(
        16,
        "Width between the two layers of an order-preserving transform.",
        low=1,
        when=chosen_part_has("opt_embed"),
    )
    qplex_heads: int = option(
        4,
        "Attention heads (kernels) of QPLEX's lambda network.",
        low=1,
        when=chosen_part_has("qplex_heads"),
    )
    qplex_layers: int = option(
        2,
        "Layers of QPLEX's key, agent and action extractors.",
        low=1,
        when=chosen_part_has("qplex_layers"),
    )
    qatten_heads: int = option(4, "Attention heads of Qatten.", low=1, when=chosen_part_has("qatten_heads"))
    central_embed: int = option(
        256,
        "Hidden width of the central critic's mixing network.",
        low=1,
        when=lambda config: config.algo.central_critic,
    )

    def check(self, config: Any) -> None:
        """Raise ConfigError when these options cannot work together."""
        if self.utility_transform == "mlp":
            raise ConfigError("algo.utility_transform=mlp: must keep the order of the utilities")


@dataclasses.dataclass(frozen=True)
class ValueOptions(FamilyOptions):
    """Options of the learner `value`."""

    fit: Literal["td", "qtran"] = option(
        "td", "What Q_tot is fitted to: the TD target, or the central critic under QTRAN's two constraints."
    )
    weighting: Literal["uniform", "optimistic", "centrally", "soft_qmix"] = option(
        "uniform",
        "TD weights: 1; Weighted QMIX's, optimistic or central; those of the released Soft-QMIX.",
        when=lambda config: config.algo.fit == "td",
    )
    mlp_embed: int = option(
        64, "Hidden width of the MLP that makes policy logits.", low=1, when=chosen_part_has("mlp_embed")
    )

    def check(self, config: Any) -> None:
        """Raise ConfigError when these options cannot work together."""
        super().check(config)
        for key, value in (("fit", "qtran"), ("weighting", "centrally")):
            if getattr(self, key) == value and not self.central_critic:
                raise ConfigError(f"algo.{key}={value}: needs algo.central_critic=true")
        if self.weighting == "soft_qmix" and not softmax(config):
            raise ConfigError("algo.weighting=soft_qmix: needs algo.policy=softmax")


@dataclasses.dataclass(frozen=True)
class ValueContinuousOptions(FamilyOptions):
    """Options of the learner `value_continuous`."""

    fit: ClassVar[str] = "td"  # QTRAN needs the best joint action at every instant
    weighting: Literal["uniform", "optimistic"] = option(
        "uniform", "TD weights: 1, or those of optimistically weighted QMIX."
    )
    proposals: int = option(
        32, "Uniform samples that an agent's policy chooses among, at every instant.", low=1
    )
    refinements: int = option(
        4, "How often the greedy action is searched again, each time closer around the best one.", low=1
    )

    def check(self, config: Any) -> None:
        """Raise ConfigError when these options cannot work together."""
        super().check(config)
        if self.transform == "mlp":
            raise ConfigError(
                "algo.transform=mlp: needs discrete actions, as it reads the values of all actions"
            )


@hypers
class FamilyHypers(LearningRate, TdLambda, TargetRate, Epsilon, Temperature, Hypers):
    """Hyperparameters that the family has; `value_continuous` has no others."""

    eps_start: float = narrowed(Epsilon, "eps_start", epsilon_greedy)
    eps_end: float = narrowed(Epsilon, "eps_end", epsilon_greedy)
    eps_steps: float = narrowed(Epsilon, "eps_steps", epsilon_greedy)
    alpha: float = narrowed(Temperature, "alpha", softmax)
    alpha_lr: float = narrowed(Temperature, "alpha_lr", softmax)
    target_entropy: float = narrowed(Temperature, "target_entropy", softmax)
    alpha_end: float = narrowed(Temperature, "alpha_end", softmax)
    alpha_steps: float = narrowed(Temperature, "alpha_steps", softmax)
    optimistic_weight: float = option(
        0.1,
        "Weighted QMIX's lower weight: of over-estimates or of poor joint actions; 1 is no weighting.",
        low=0,
        high=1,
        when=lambda config: config.algo.weighting in ("optimistic", "centrally"),
    )


@hypers
class ValueHypers(FamilyHypers):
    """Hyperparameters of the learner `value`."""

    nopt_weight: float = option(
        0.1,
        "Weight of QTRAN's constraint on all joint actions beside the one on the greedy joint action.",
        above=0,
        when=lambda config: config.algo.fit == "qtran",
    )
