"""Parts for me_igm_jax from outside. Importing this package registers all of them by name."""

from . import agent, iql, mixer, soccer

__all__ = ["agent", "iql", "mixer", "soccer"]
