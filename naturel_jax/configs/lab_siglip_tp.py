"""Why SigLIP-TP may fall below its base: on the drawn world, SigLIP-TP as published beside a row for each suspect.

``naturel-sweep --config lab_siglip_tp --seeds 10 --baseline SigLIP-TP``. docs/lab.md names the suspects and says what
was found.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import siglip, siglip_tp
from naturel_jax.losses.batch import ImageLabels
from naturel_jax.losses.objectives import OBJECTIVES, Objective, sigmoid_loss

_WORLD = "scenes"
_BASE, _LARGE_BATCH = "siglip_lab", "siglip_large_batch"
_COLUMNS = ("naturel", "naturel_contrast", "winoground", "hard_positives_replace", "zeroshot")
_BIAS_FROZEN = (("logit_bias", 0.0),)


# ---- Labels that are wrong on purpose, for batches on one device -----------------------------------------------------


def _first_positive(images: ImageLabels) -> ImageLabels:
    """Each image has one positive, on the diagonal: its others are negatives like any caption."""
    return images._replace(positives_IK=images.positives_IK[:, :1])


def _mixed_up(images: ImageLabels) -> ImageLabels:
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


for _name, _relabel in {"first_positive": _first_positive, "mixed_up": _mixed_up}.items():
    OBJECTIVES[f"sigmoid_{_name}"] = Objective(functools.partial(_with_labels, _relabel), needs_bias=True)


# ---- Rows ------------------------------------------------------------------------------------------------------------


def _columns(config: ConfigDict) -> ConfigDict:
    config.eval.benchmarks, config.eval.during = _COLUMNS, {}
    return config


def _base() -> ConfigDict:
    config = _columns(siglip.get_config(_WORLD))
    config.duration, config.checkpoint.every = "3000 steps", "500 steps"
    return config


def _large_batch_base() -> ConfigDict:
    """The base with the logit bias of a batch of about 22,000, SigLIP's, which is lower by log(22,000 / 64), about 6,
    than that of a batch of 64: it is Adam's first step, whose size is the rate."""
    config = _row("SigLIP, bias of a large batch")
    config.duration = "1 steps"
    config.optim.update({"lr": 6.0, "warmup": "0 steps", "schedule": "constant", "clip_norm": 0.0})
    config.optim.lr_multipliers = (("logit_bias", 1.0), (".*", 0.0))
    return config


def _row(name: str, base: str = _BASE, **fields: object) -> ConfigDict:
    """SigLIP-TP from ``base``, with other values of ``fields``: paths with two underscores for dots."""
    config = _columns(siglip_tp.get_config(_WORLD))
    config.name = name
    config.init = f"base:{base}"
    config.bases = {base: _base() if base == _BASE else _large_batch_base()}
    config.update_from_flattened_dict({field.replace("__", "."): value for field, value in fields.items()})
    return config


def get_config() -> ConfigDict:
    rows = {
        "siglip": _row("SigLIP", duration="0 steps"),
        "siglip_tp": _row("SigLIP-TP"),
        "low_bias": _row("low bias", _LARGE_BATCH),
        "low_bias_frozen": _row("low bias, frozen", _LARGE_BATCH, optim__lr_multipliers=_BIAS_FROZEN),
        "low_bias_calibrated": _row("low bias, calibrated", _LARGE_BATCH, objective__calibrate_bias=True),
        "match_ignore": _row("true captions left out", objective__counting="match_ignore"),
        "own_foils": _row("own-foil term", objective__terms={"own_foils": {"weight": 1.0, "form": "sigmoid"}}),
        "high_rate": _row("rate times 3", optim__lr=3e-3),
        "low_rate": _row("rate divided by 3", optim__lr=3e-4),
        "together": _row(
            "low bias, frozen, rate times 3", _LARGE_BATCH, optim__lr=3e-3, optim__lr_multipliers=_BIAS_FROZEN
        ),
        "softmax": _row("softmax loss", objective__name="softmax"),
        "first_positive": _row("labels: one positive", objective__name="sigmoid_first_positive"),
        "mixed_up": _row("labels: mixed up", objective__name="sigmoid_mixed_up"),
    }
    return c.suite(rows, dict.fromkeys(rows, 1.5), measured_on="two cores of an AMD EPYC")
