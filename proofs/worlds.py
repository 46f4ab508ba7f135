"""Drawn worlds of experiments, beside those of the package."""

from tfds_naturel import naturel
from tfds_naturel.scenes.scene import CONFIGS, ScenesConfig


def add(world: ScenesConfig) -> str:
    """Makes ``world`` one of those that are drawn when they are missing; returns its dataset."""
    if world.name not in CONFIGS:
        CONFIGS[world.name] = world
        naturel.Naturel.BUILDER_CONFIGS.append(naturel.scenes(world))
    return f"naturel/{world.name}"
