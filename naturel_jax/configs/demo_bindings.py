"""Bindings and positions on a drawn world whose things are both painted: a base, NegCLIP-SP, and NegCLIP-SP with half
of each batch from captions of either kind. They take longer to learn than single relations: 900 steps."""

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
    base, *recipes = runs = {f"{name}_{_WORLD}": row.get_config(_WORLD) for name, row in _ROWS.items()}
    for name in recipes:
        runs[name].duration = "900 steps"
        parts = runs[name].data.mixture
        for part in parts.values():
            part.weight = 1 / len(parts)
    benchmarks = ("naturel_bindings", "naturel_positions", *runs[base].eval.benchmarks)
    for config in runs.values():
        config.eval.benchmarks = benchmarks
    minutes = {base: 1} | dict.fromkeys(recipes, 3)
    return c.suite(runs, minutes, measured_on="two cores of an AMD EPYC")
