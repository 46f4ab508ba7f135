"""Bindings and positions on a drawn world whose things are both painted: a base, NegCLIP-SP, and NegCLIP-SP that also
trains on captions of either kind."""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import clip, negclip_bindings, negclip_positions, negclip_sp

_WORLD = "scenes_bindings"
_ROWS = {
    "clip": clip,
    "negclip_sp": negclip_sp,
    "negclip_bindings": negclip_bindings,
    "negclip_positions": negclip_positions,
}


def get_config() -> ConfigDict:
    runs = {f"{name}_{_WORLD}": row.get_config(_WORLD) for name, row in _ROWS.items()}
    benchmarks = ("naturel_bindings", "naturel_positions", *runs[f"clip_{_WORLD}"].eval.benchmarks)
    for config in runs.values():
        config.eval.benchmarks = benchmarks
    return c.suite(runs, minutes=dict.fromkeys(runs, 1), measured_on="two cores of an AMD EPYC")
