"""From scenes to NatuRel examples: encoded picture, boxes, relations and captions."""

import functools
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from tensorflow_datasets.core.features import BBox

from tfds_naturel.captions import grammar
from tfds_naturel.captions.relations import converse
from tfds_naturel.scenes.render import encode_jpeg
from tfds_naturel.scenes.scene import SPLITS, Scene, ScenesConfig, draw
from tfds_naturel.scenes.world import arguable
from tfds_naturel.schema import Caption, Triplet


def splits(config: ScenesConfig) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    """For every split an iterator of (key, example) in the form of ``schema.features``, the picture as JPEG bytes."""
    return {split: _rows(config, split, size) for split, size in zip(SPLITS, config.sizes, strict=True)}


def _rows(config: ScenesConfig, split: str, size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for index in range(size):
        row = example(config, split, index)
        yield row["image_id"], row


def example(config: ScenesConfig, split: str, index: int) -> dict[str, Any]:
    scene = draw(config, split, index)
    rng = np.random.default_rng([config.seed, zlib.crc32(split.encode()), index, 1])
    relations = [(scene.triplet, 0, 1), *((triplet, row, -1) for row, triplet in scene.attributes)]
    return {
        "image": encode_jpeg(scene.image),
        "image_id": f"{config.name}-{split}-{index:07d}",
        "license": "Apache-2.0",
        "author": "naturel_jax",
        "source_url": f"{config.name}?seed={config.seed}&split={split}&index={index}",
        "objects": [{"label": thing.label, "box": _bbox(thing.box)} for thing in scene.things],
        "relations": [
            {"subject": t.subject, "relation": t.relation, "object": t.object, "subject_index": i, "object_index": j}
            for t, i, j in relations
        ],
        "captions": [
            _features(caption) for triplet, _, _ in relations for caption in captions(config, scene, triplet, rng)
        ],
    }


def captions(config: ScenesConfig, scene: Scene, triplet: Triplet, rng: np.random.Generator) -> tuple[Caption, ...]:
    """One of the triplet's ``config.variants`` sets of 8 captions, its negatives false of the picture.

    Raises ValueError when every set has a negative that the picture shows.
    """
    for variant in rng.permutation(config.variants):
        written = _written(config, triplet, int(variant))
        if not any(c.polarity == "negative" and c.asserts and scene.is_true(c.asserts) for c in written):
            return written
    raise ValueError(
        f"{triplet}: every one of the {config.variants} caption sets has a negative that the picture shows"
    )


@functools.cache
def _written(config: ScenesConfig, triplet: Triplet, variant: int) -> tuple[Caption, ...]:
    """Negatives claim only what other pictures show, so that no words are always false; of held-out triplets, nothing
    is said beside seen ones.
    """
    seen, unseen = (world.triplets for world in config.compositions())
    shown = seen if triplet in seen else seen | unseen
    rng = np.random.default_rng([config.seed, zlib.crc32(str(triplet).encode()), variant])
    return grammar.write(triplet, rng, lambda claim: not shown & {claim, converse(claim)} or arguable(triplet, claim))


@functools.cache
def _features(caption: Caption) -> dict[str, Any]:
    return caption.as_features()


def _bbox(box: tuple[float, float, float, float]) -> BBox:
    xmin, ymin, xmax, ymax = box
    return BBox(ymin=ymin, xmin=xmin, ymax=ymax, xmax=xmax)
