"""The poster's tables on the drawn world, from scratch, on two CPU cores: two bases, then each recipe from its base.
The last two are our own."""

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import (
    clip,
    clip_naturel,
    negclip,
    negclip_ap,
    negclip_sp,
    siglip,
    siglip_naturel,
    siglip_tp,
)

# Run folder -> (config, minutes). Recipes find their bases by folder name.
_ROWS = {
    "clip_scenes": (clip, 1),
    "siglip_scenes": (siglip, 1),
    "negclip_scenes": (negclip, 1),
    "negclip_sp_scenes": (negclip_sp, 1),
    "negclip_ap_scenes": (negclip_ap, 2),
    "siglip_tp_scenes": (siglip_tp, 1),
    "clip_naturel_scenes": (clip_naturel, 2),
    "siglip_naturel_scenes": (siglip_naturel, 1),
}


def get_config() -> ConfigDict:
    return c.suite(
        runs={folder: row.get_config("scenes") for folder, (row, _) in _ROWS.items()},
        minutes={folder: minutes for folder, (_, minutes) in _ROWS.items()},
        measured_on="two cores of an Intel Xeon",
    )
