"""Experiments on the drawn world (docs/lab.md): suites of fine-tuned models, to be trained with several seeds.

    naturel-sweep --config lab:siglip_tp --seeds 3 --baseline SigLIP-TP --out sweeps/siglip_tp
    naturel-sweep --config lab:methods --seeds 3 --baseline NegCLIP-AP --out sweeps/methods
    naturel-sweep --config lab:recipes --seeds 3 --baseline NegCLIP-AP --out sweeps/recipes

Shape letters: I images, U captions, K captions sampled per image, D embedding.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import (
    clic,
    clip,
    clip_naturel,
    negclip,
    negclip_ap,
    negclip_sp,
    siglip,
    siglip_naturel,
    siglip_tp,
)
from naturel_jax.losses.batch import ImageLabels
from naturel_jax.losses.objectives import OBJECTIVES, Objective, sigmoid_loss
from tfds_naturel.common.errors import UserError

_COLUMNS = ("naturel", "naturel_unseen", "naturel_contrast", "winoground", "hard_positives_replace", "zeroshot")


# ---- Labels that are wrong on purpose, for batches on one device -----------------------------------------------------


def first_positive(images: ImageLabels) -> ImageLabels:
    """Each image has one positive, on the diagonal: its others are negatives like any caption."""
    return images._replace(positives_IK=images.positives_IK[:, :1])


def mixed_up(images: ImageLabels) -> ImageLabels:
    """The captions are in the order of ``concatenate([first positives, second positives, first negatives, ...])``, and
    the labels say that those of an image follow each other: the positives of image i are the captions 4i and 4i + 1."""
    positives = images.positives_IK.shape[1]
    captions_IK = jnp.concatenate([images.positives_IK, images.negatives_IK], axis=1)
    labelled_IK = captions_IK.T.reshape(captions_IK.shape)
    return images._replace(positives_IK=labelled_IK[:, :positives], negatives_IK=labelled_IK[:, positives:])


def _with_labels(
    relabel: Callable[[ImageLabels], ImageLabels],
    zimg_ID: jax.Array,
    zcap_UD: jax.Array,
    *,
    images: ImageLabels,
    **options: Any,
) -> jax.Array:
    return sigmoid_loss(zimg_ID, zcap_UD, images=relabel(images), **options)


# ---- Bases and rows --------------------------------------------------------------------------------------------------


def _base(name: str, world: str) -> ConfigDict:
    """A base that is trained for longer than the demo's, so that it has more to forget, or SigLIP's with a low bias."""
    if name == "large_batch":
        return _large_batch()
    family, duration = {"clip_lab": (clip, "1500 steps"), "siglip_lab": (siglip, "3000 steps")}[name]
    config = family.get_config(world)
    config.duration, config.checkpoint.every = duration, "500 steps"
    return _evaluated(config)


def _large_batch() -> ConfigDict:
    """The base with a logit bias that is lower by 6, as if batches had been 400 times as large. One step of Adam makes
    it, whose size is the rate."""
    config = _row(siglip_tp, "SigLIP, bias of a large batch", "siglip_lab")
    config.duration = "1 steps"
    config.optim.update({"lr": 6.0, "warmup": "0 steps", "schedule": "constant", "clip_norm": 0.0})
    config.optim.lr_multipliers = (("logit_bias", 1.0), (".*", 0.0))
    return config


def _row(recipe: Any, name: str, base: str, world: str = "scenes", **fields: object) -> ConfigDict:
    """The config file ``recipe`` as a row, from another base and with other values of ``fields``, whose names have two
    underscores for dots."""
    config = recipe.get_config(world)
    config.name, config.init, config.bases = name, f"base:{base}", {base: _base(base, world)}
    config.update_from_flattened_dict({field.replace("__", "."): value for field, value in fields.items()})
    return _evaluated(config)


def _evaluated(config: ConfigDict) -> ConfigDict:
    config.eval.benchmarks, config.eval.during = _COLUMNS, {}
    return config


# ---- Suites ----------------------------------------------------------------------------------------------------------


def _siglip_tp() -> dict[str, ConfigDict]:
    """SigLIP-TP as published, and a row for each thing that may make it fall below its base."""
    for relabel in (first_positive, mixed_up):
        OBJECTIVES[f"sigmoid_{relabel.__name__}"] = Objective(functools.partial(_with_labels, relabel), needs_bias=True)
    plain = functools.partial(_row, siglip_tp, base="siglip_lab")
    low_bias = functools.partial(_row, siglip_tp, base="large_batch")
    frozen = (("logit_bias", 0.0),)
    return {
        "siglip": plain(name="SigLIP", duration="0 steps"),
        "siglip_tp": plain(name="SigLIP-TP"),
        "low_bias": low_bias(name="low bias"),
        "low_bias_frozen": low_bias(name="low bias, frozen", optim__lr_multipliers=frozen),
        "low_bias_calibrated": low_bias(name="low bias, calibrated", objective__calibrate_bias=True),
        "match_ignore": plain(name="true captions left out", objective__counting="match_ignore"),
        "own_foils": plain(name="own-foil term", objective__terms={"own_foils": {"weight": 1.0, "form": "sigmoid"}}),
        "high_rate": plain(name="rate times 3", optim__lr=3e-3),
        "low_rate": plain(name="rate divided by 3", optim__lr=3e-4),
        "together": low_bias(name="low bias, frozen, rate times 3", optim__lr=3e-3, optim__lr_multipliers=frozen),
        "softmax": plain(name="softmax loss", objective__name="softmax"),
        "first_positive": plain(name="labels: one positive", objective__name="sigmoid_first_positive"),
        "mixed_up": plain(name="labels: mixed up", objective__name="sigmoid_mixed_up"),
    }


def _methods() -> dict[str, ConfigDict]:
    """NegCLIP's rows and the methods of docs/methods.md, with the weights of their code, from one base and at one
    learning rate; and NegCLIP-AP with several changes combined."""
    single = functools.partial(_row, negclip_sp, base="clip_lab")
    every = functools.partial(_row, negclip_ap, base="clip_lab")
    two = functools.partial(single, data__mixture__main__recipe="two_pairs")
    preserved = {"weight": 1.0, "mse": 0.05, "cosine": 0.05, "similarity": 0.1}
    own_foils = {"own_foils": {"weight": 0.5}}
    return {
        "clip": single(name="CLIP", duration="0 steps"),
        "negclip": _row(negclip, "NegCLIP", "clip_lab"),
        "negclip_sp": single(name="NegCLIP-SP"),
        "negclip_ap": every(name="NegCLIP-AP"),
        "match_ignore": every(name="NegCLIP-AP, true captions left out", objective__counting="match_ignore"),
        "preserved": every(name="NegCLIP-AP, distance to the base", objective__terms={"base_distance": preserved}),
        "ema": every(name="NegCLIP-AP, moving average", optim__ema=0.99),
        "own_foils": every(name="NegCLIP-AP, own-foil term", objective__terms=own_foils),
        "high_rate": every(name="NegCLIP-AP, rate times 3", optim__lr=3e-3),
        "together": every(
            name="NegCLIP-AP, combined",
            optim__lr=3e-3,
            optim__ema=0.99,
            objective__counting="match_ignore",
            objective__terms={**own_foils, "base_distance": preserved},
        ),
        "lora": every(name="NegCLIP-AP, LoRA", adapter__rank=16, optim__lr=3e-3),
        "fsc": single(
            name="FSC-CLIP's global term",
            objective__hard_negative_weight=0.0,
            objective__terms={"own_foils": {"weight": 0.5, "form": "focal"}},
        ),
        "ce_clip": single(
            name="CE-CLIP's hinge", objective__terms={"own_foils": {"weight": 0.2, "form": "adaptive_hinge"}}
        ),
        "two_pairs": two(name="NegCLIP, two pairs"),
        "read": two(name="READ-CLIP's text term", objective__terms={"text_contrast": {"weight": 0.5}}),
        "cs_clip": two(name="CS-CLIP's units", objective__terms={"further_positives": {"weight": 0.5}}),
        "clic": _row(clic, "CLIC", "clip_lab"),
        "clip_naturel": _row(clip_naturel, "CLIP-NatuRel", "clip_lab"),
        "nearer": _row(
            clip_naturel,
            "CLIP-NatuRel, nearer to the base",
            "clip_lab",
            objective__terms__base_distance={"weight": 3.0, "mse": 0.0, "cosine": 1.0},
        ),
    }


def _recipes() -> dict[str, ConfigDict]:
    """CLIP-NatuRel and SigLIP-NatuRel beside NegCLIP-AP and SigLIP-TP, on a world that had no part in their choice."""
    row = functools.partial(_row, world="scenes_agents")
    return {
        "clip": row(negclip_sp, "CLIP", "clip_lab", duration="0 steps"),
        "negclip_ap": row(negclip_ap, "NegCLIP-AP", "clip_lab"),
        "clip_naturel": row(clip_naturel, "CLIP-NatuRel", "clip_lab"),
        "siglip": row(siglip_tp, "SigLIP", "siglip_lab", duration="0 steps"),
        "siglip_tp": row(siglip_tp, "SigLIP-TP", "siglip_lab"),
        "siglip_naturel": row(siglip_naturel, "SigLIP-NatuRel", "siglip_lab"),
    }


_SUITES = {"siglip_tp": _siglip_tp, "methods": _methods, "recipes": _recipes}


def get_config(suite: str = "siglip_tp") -> ConfigDict:
    if suite not in _SUITES:
        raise UserError(
            f"--config lab:{suite}: unknown; expected one of: {', '.join(f'lab:{name}' for name in _SUITES)}"
        )
    rows = _SUITES[suite]()
    return c.suite(rows)
