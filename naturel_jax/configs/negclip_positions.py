"""NegCLIP-SP that also trains on positions: what is on the left, and what on the right."""

from ml_collections import ConfigDict

from naturel_jax.configs import negclip_bindings


def get_config(world: str = "") -> ConfigDict:
    return negclip_bindings.with_kind("positions", world)
