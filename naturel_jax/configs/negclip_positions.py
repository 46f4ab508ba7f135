"""NegCLIP-SP that also trains on positions: left of, right of, above and below."""

from ml_collections import ConfigDict

from naturel_jax.configs import negclip_bindings


def get_config(world: str = "") -> ConfigDict:
    return negclip_bindings.with_kind("positions", world)
