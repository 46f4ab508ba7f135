"""Pipelines of chosen stages, without a config."""

from collections.abc import Sequence

from jax.sharding import Mesh

from naturel_jax.data.batches.pipeline import Pipeline
from naturel_jax.data.batches.planner import Planner
from naturel_jax.data.batches.stages import HostCrops, Tokens
from naturel_jax.data.images.augment import Crops
from naturel_jax.data.items.items import Source
from naturel_jax.devices.sharding import batch_sharding


def make(planner: Planner, sources: Sequence[Source], crops: Crops, mesh: Mesh, **reading) -> Pipeline:
    """``reading``: threads, workers."""
    return Pipeline(planner, HostCrops(sources, crops), Tokens(), batch_sharding(mesh), **reading)
