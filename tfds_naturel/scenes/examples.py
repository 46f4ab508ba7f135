"""Converts scenes to NatuRel examples: encoded image, boxes, relations and captions."""

import dataclasses
import functools
import zlib
from typing import Any

import numpy as np
from tensorflow_datasets.core.features import BBox

from tfds_naturel.captions import grammar, mirrored
from tfds_naturel.captions.relations import converse
from tfds_naturel.common.schema import Caption, Triplet, numbered
from tfds_naturel.scenes.render import encode_jpeg
from tfds_naturel.scenes.scene import Scene, ScenesConfig, draw
from tfds_naturel.scenes.world import arguable, rivals


def example(config: ScenesConfig, split: str, index: int) -> dict[str, Any]:
    """Example ``index`` of ``split`` in the format of ``schema.features``; a pure function of its arguments."""
    scene = draw(config, split, index)
    rng = np.random.default_rng([config.seed, zlib.crc32(split.encode()), index, 1])
    relations = [(scene.triplet, 0, 1), *((triplet, row, -1) for row, triplet in scene.attributes)]
    return {
        "image": encode_jpeg(scene.image),
        "image_id": f"{config.name}-{split}-{index:07d}",
        "license": "Apache-2.0",
        "author": "naturel_jax",
        "source_url": f"{config.name}?seed={config.seed}&split={split}&index={index}",
        "objects": [
            {"label": label, "box": BBox(ymin=ymin, xmin=xmin, ymax=ymax, xmax=xmax)}
            for label, _, (xmin, ymin, xmax, ymax) in map(dataclasses.astuple, scene.things)
        ],
        "relations": [t._asdict() | {"subject_index": i, "object_index": j} for t, i, j in relations],
        "captions": numbered(captions(config, scene, triplet, rng) for triplet, _, _ in relations),
    }


def captions(config: ScenesConfig, scene: Scene, triplet: Triplet, rng: np.random.Generator) -> tuple[Caption, ...]:
    """One of the triplet's ``config.variants`` sets of 8 captions whose negatives are all false for the image.

    Raises ValueError if every set has a negative that the image shows.
    """
    for variant in rng.permutation(config.variants):
        written = _written(config, triplet, int(variant))
        claims = [c.asserts for c in written if c.polarity == "negative" and c.asserts]
        # A caption that claims what ``triplet`` leaves open denies ``triplet`` as well.
        if not any(scene.is_true(claim) and not arguable(triplet, claim) for claim in claims):
            return written
    raise ValueError(f"{triplet}: each of the {config.variants} caption sets has a negative that the image shows")


def caption_sets(config: ScenesConfig, triplet: Triplet) -> list[tuple[Caption, ...]]:
    """All sets of captions of a triplet, from which ``captions`` chooses."""
    return [_written(config, triplet, variant) for variant in range(config.variants)]


@functools.cache
def _written(config: ScenesConfig, triplet: Triplet, variant: int) -> tuple[Caption, ...]:
    """Negatives claim only what other images show, so that no wording is always false. Negatives of seen triplets never
    claim a held-out triplet.
    """
    seen, unseen = (world.triplets for world in config.compositions())
    shown = seen if triplet in seen else seen | unseen
    rng = np.random.default_rng([config.seed, zlib.crc32(str(triplet).encode()), variant])
    found = rivals(shown).get(triplet, ())
    if found or not (triplet.relation == "is" or mirrored.needs_rivals(triplet)):
        return mirrored.write(triplet, found, rng)
    return grammar.write(triplet, rng, lambda claim: not shown & {claim, converse(claim)} or arguable(triplet, claim))
