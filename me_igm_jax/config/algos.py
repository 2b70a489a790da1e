"""Choices of the learners, a class per learner. Frozen: a change compiles a new program."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Algo:
    """Which learner it is, what several of them share, and the parts of the value family's."""

    learner: Literal["value", "fop", "hasac", "msac", "ppo", "dop", "pac", "ddpg", "maac"] = "value"
    """Value decomposition (every *_qmix, vdn, qplex, ...), FOP, HASAC, mSAC, MAPPO and IPPO, DOP, PAC; for
    continuous actions alone: deterministic policy gradients (MADDPG, FacMADDPG, DOP's), or MAAC."""
    optimiser: Literal["adam", "rmsprop"] = "adam"
    """What turns gradients into steps: Adam, or PyTorch's RMSprop with decay 0.99."""
    mixer: Literal["vdn", "qmix", "qplex", "qatten", "vdn_s"] = "qmix"
    """How utilities become Q_tot."""
    local: Literal["identity", "residual"] = "identity"
    """Order-preserving g_i applied to the utilities before mixing (Soft-QMIX: residual)."""
    transform: Literal["identity", "opt", "mlp"] = "identity"
    """How utilities become policy logits: not at all, order-preserving, or an unconstrained MLP."""
    policy: Literal["epsilon_greedy", "softmax"] = "epsilon_greedy"
    """How training data is collected, and which next action a target uses (greedy or sampled)."""
    temperature: Literal["fixed", "anneal", "linear", "sgd", "adam"] = "fixed"
    """Fixed, falling over hypers.alpha_steps (anneal: geometrically), or learned on log alpha."""
    entropy: Literal["sample", "exact", "none"] = "sample"
    """Entropy bonus of a softmax policy's target: -log pi of the sampled action, exact, or none."""
    fit: Literal["td", "qtran"] = "td"
    """What Q_tot is fitted to: the TD target, or the central critic under QTRAN's two constraints."""
    weighting: Literal["uniform", "optimistic", "centrally", "soft_qmix"] = "uniform"
    """TD weights: 1; Weighted QMIX's, optimistic or central; those of the released Soft-QMIX."""
    central_critic: bool = False
    """Bootstrap from an unrestricted central critic (Weighted QMIX, QTRAN) instead of from Q_tot."""
    target_interval: int = 200
    """Episodes between two refreshes of the target networks."""
    mixing_embed: int = 32
    """Width of QMIX's mixing layer, and of Qatten's queries and keys."""
    hyper_embed: int = 64
    """Hidden width of every hyper-network."""
    opt_layers: int = 1
    """Layers of the order-preserving transformation: 1 or 2."""
    opt_embed: int = 16
    """Hidden width of g_i and of the two-layer order-preserving transformation."""
    mlp_embed: int = 64
    """Hidden width of the MLP that replaces the OPT in the ablation."""
    qplex_heads: int = 4
    """Attention heads (kernels) of QPLEX's lambda network."""
    qplex_layers: int = 2
    """Layers of QPLEX's key, agent and action extractors."""
    qatten_heads: int = 4
    """Attention heads of Qatten."""
    central_embed: int = 256
    """Hidden width of the central critic's mixing network."""
    proposals: int = 32
    """Continuous actions: uniform draws that an agent's policy chooses among, at every instant."""
    refinements: int = 4
    """Continuous actions: how often the greedy action is sought again, ever more closely."""


@dataclasses.dataclass(frozen=True)
class Fop:
    """FOP's parts: the paper's, or what the released code does in their place."""

    form: Literal["paper", "released", "linear"] = "paper"
    """Q_jt: lambda_i weighs the gradient to Q_i (paper), or only the value of Q_jt (released); or the
    paper's ablation for continuous actions, DOP's sum_i k_i(s) Q_i + b(s) (linear)."""
    entropy: Literal["sum", "mean"] = "sum"
    """sum_i log pi_i inside the lambda-return, or mean_i log pi_i added to it, undiscounted (released)."""
    value: Literal["network", "logsumexp"] = "network"
    """V_i: a network of its own, or alpha log sum_a exp(Q_i / alpha) over all actions (released)."""
    temperatures: Literal["ratio", "shared"] = "ratio"
    """alpha_i: alpha times the ratio of the paper's section 4.3, or alpha (released)."""
    twin: bool = False
    """Two critics, of which the smaller counts (released)."""
    attention: bool = False
    """Weigh every Q_i by Qatten's attention (second release), or by 1; released form only."""
    heads: int = 4
    """Attention heads of the lambda network and of the weights."""
    layers: int = 1
    """Layers of the lambda network's key, agent and action extractors."""


@dataclasses.dataclass(frozen=True)
class Hasac:
    """HASAC's choices."""

    n_step: int = 20
    """Steps of the critics' target; the entropy enters where it bootstraps."""
    critic_hidden: int = 256
    """Width of the critics' two hidden layers."""
    huber: bool = False
    """Huber's loss (hypers.huber_delta) in place of squares."""
    target_entropy: Literal["available", "all", "zero"] = "available"
    """Entropy that an agent's temperature aims at: hypers.entropy_share of ln(available actions), of
    ln|A| (the paper), or 0 (the released code). Where actions are masked no policy reaches 0.98 ln|A|,
    so temperatures would grow for ever; a dead agent has ln 1 = 0."""


@dataclasses.dataclass(frozen=True)
class Msac:
    """mSAC's parts: the paper's, or what the released code does in their place."""

    mixer: Literal["qmix", "linear"] = "qmix"
    """QMIX's mixer (paper), or sum_i |w_i(s)| Q_i + b(s) (released)."""
    actor_value: Literal["min", "first"] = "min"
    """What improves the actor: the smaller of both critics' joint values, or the first's (released)."""
    standardise: bool = False
    """Give the rewards of every batch mean 0 and standard deviation 10 (released)."""
    target_entropy: Literal["given", "actions"] = "given"
    """Entropy that the temperature aims at: hypers.target_entropy, or -|A| per agent (released), below any
    that a policy can have, so that it falls for ever."""
    clamp: bool = False
    """Keep the policy's logits within [-5, 2] (released): odds of exp(7) at most."""


@dataclasses.dataclass(frozen=True)
class Ppo:
    """MAPPO's and IPPO's choices."""

    critic: Literal["state", "observation"] = "state"
    """What values are read from: the central state (MAPPO), or each agent's observations (IPPO)."""
    epochs: int = 5
    """Passes over what was just collected."""
    minibatches: int = 1
    """Parts that each pass is cut into, whole sequences each."""
    normalise_values: bool = True
    """The critic predicts returns in units of their running mean and deviation."""
    clip_values: bool = True
    """Keep the values near those before the update, as the policy's probabilities."""
    huber: bool = True
    """Huber's loss (hypers.huber_delta) in place of squares."""


ON_POLICY = frozenset({"ppo"})
"""Learners of what was just collected, and of nothing older: replay holds that alone."""


@dataclasses.dataclass(frozen=True)
class Dop:
    """DOP's choices."""

    form: Literal["paper", "released"] = "paper"
    """Q_tot = sum_i k_i Q_i + b (paper), or the k_i made to sum to one and no b (released code)."""
    critic_hidden: int = 256
    """Width of the critics' two hidden layers."""
    tree_steps: int = 5
    """Steps of the off-policy tree-backup target."""


@dataclasses.dataclass(frozen=True)
class Pac:
    """PAC's choices."""

    message: int = 3
    """Numbers that each agent tells each agent while learning."""
    target_entropy: Literal["given", "actions"] = "actions"
    """Entropy that the temperature aims at: hypers.target_entropy, or -|A| per agent (released), below any
    that a policy can have, so that it falls for ever."""


@dataclasses.dataclass(frozen=True)
class Ddpg:
    """Choices of the deterministic policy gradients, for continuous actions."""

    critic: Literal["joint", "monotonic", "linear"] = "joint"
    """Q(s, u) of the joint action (MADDPG), QMIX's mixer over Q_i(o_i, u_i) (FacMADDPG), or DOP's sum."""
    hidden: int = 64
    """Width of the joint critic's two hidden layers; of what Q_i reads from `net`, and of its layer on that
    and the action."""


@dataclasses.dataclass(frozen=True)
class Maac:
    """MAAC's choices, for continuous actions."""

    heads: int = 4
    """Attention heads over the other agents."""
    hidden: int = 64
    """Width of the critics' layers."""
