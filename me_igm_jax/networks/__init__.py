"""Networks: layers, the agents' networks, actors, mixers, transforms and critics.

Here stand the names of the built-in parts; the module of a part is imported when it is used.
"""

from ..config.registry import AGENTS, MIXERS, TRANSFORMS

AGENTS.lazy("standard", f"{__name__}.agents")
MIXERS.lazy(("vdn", "vdn_s", "qmix", "qplex", "qatten"), f"{__name__}.mixers")
TRANSFORMS.lazy(("identity", "opt", "opt_two_layers", "opt_residual", "mlp"), f"{__name__}.transforms")
