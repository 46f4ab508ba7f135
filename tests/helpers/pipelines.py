"""Pipelines of chosen stages, without a config."""

from collections.abc import Sequence

from jax.sharding import Mesh

from naturel_jax.data.batches.pipeline import Pipeline
from naturel_jax.data.batches.planner import Planner
from naturel_jax.data.batches.stages import DeviceCrops, HostCrops, Tokens
from naturel_jax.data.images.augment import Crops
from naturel_jax.data.items.items import Source
from naturel_jax.devices.sharding import batch_sharding


def make(
    planner: Planner, sources: Sequence[Source], crops: Crops, mesh: Mesh, *, cropped="host", **reading
) -> Pipeline:
    """``cropped``: on the ``host`` or on the ``device``; ``reading``: threads, workers."""
    sharding = batch_sharding(mesh)
    stages = {"host": HostCrops(sources, crops), "device": DeviceCrops(sources, crops, sharding)}
    return Pipeline(planner, stages[cropped], Tokens(), sharding, **reading)
