"""A checkpoint's metadata: everything but its arrays."""

import dataclasses
import importlib.metadata
from typing import Any

from naturel_jax.data.random import draws
from naturel_jax.data.text.processor import Processor
from naturel_jax.models.two_tower import TwoTowerConfig

VERSION = 3

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "pillow",
    "tokenizers",
    "tensorflow-datasets",
)


def versions() -> dict[str, str]:
    """Versions of the packages that affect a run's numbers."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def make_meta(
    config: dict[str, Any],
    model: TwoTowerConfig,
    processor: Processor,
    trained_on: dict[str, Any] | None = None,
    adapter: dict[str, Any] | None = None,
    *,
    remat: str = "none",
    exchange: str = "ring",
    init_digest: str = "",
) -> dict[str, Any]:
    """The metadata saved with the arrays. ``trained_on``: what ``TrainedOn.meta`` returns, None if the folder has no
    record of the images that the run trains on; ``remat`` and ``exchange``: what ``config.compute.remat`` and
    ``config.objective.exchange`` are, or have become if they are "auto"; ``adapter``: what the adapters belong to, if
    the arrays are some (``Start.adapter_meta``); ``init_digest``: of the parameters that the run started from
    (``Start.digest``)."""
    return {
        "version": VERSION,
        "trained_on": trained_on,
        "config": config,
        "remat": remat,
        "exchange": exchange,
        "adapter": adapter,
        "init_digest": init_digest,
        "streams": draws.VERSION,
        "model": dataclasses.asdict(model),
        "processor": processor.to_dict(),
        "versions": versions(),
    }
