"""Both tables on the drawn world, from nothing, on two cores: two bases, then each recipe from its base."""

from ml_collections import ConfigDict

from configs import clip, negclip, negclip_ap, negclip_sp, siglip, siglip_tp

_ROWS = {
    "clip": clip,
    "siglip": siglip,
    "negclip": negclip,
    "negclip_sp": negclip_sp,
    "negclip_ap": negclip_ap,
    "siglip_tp": siglip_tp,
}

_MINUTES = {"clip": 2, "siglip": 1.5, "negclip": 2, "negclip_sp": 2, "negclip_ap": 3.5, "siglip_tp": 3}


def get_config():
    runs = {key: row.get_config("scenes") for key, row in _ROWS.items()}
    for run in runs.values():
        if run.init:
            run.init, run.base = f"run:{'siglip' if 'siglip' in run.init else 'clip'}", ConfigDict()
    runs = ConfigDict(runs, sort_keys=False)
    return ConfigDict({"runs": runs, "minutes": _MINUTES, "measured_on": "two cores of an AMD EPYC"}, sort_keys=False)
