"""Converts scenes to NatuRel examples: encoded image, boxes, relations and captions."""

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from tensorflow_datasets.core.features import BBox

from tfds_naturel.captions import exchanges, grammar, mirrored
from tfds_naturel.captions.relations import converse
from tfds_naturel.common.schema import Caption, Exchange, Triplet, numbered
from tfds_naturel.open_images.annotations import AnnotatedImage, Box, Relation
from tfds_naturel.open_images.exchanges import Listed, balanced, bindings, positions
from tfds_naturel.scenes.render import encode_jpeg
from tfds_naturel.scenes.scene import SPLITS, Scene, ScenesConfig, draw
from tfds_naturel.scenes.world import arguable, rivals, things_exchanged


def example(config: ScenesConfig, split: str, index: int, found: Sequence[Exchange] = ()) -> dict[str, Any]:
    """Example ``index`` of ``split`` in the format of ``schema.features``, with captions for the exchanges ``found``; a
    pure function of its arguments."""
    scene = draw(config, split, index)
    rng = np.random.default_rng([config.seed, zlib.crc32(split.encode()), index, 1])
    relations = _relations(scene)
    described = [] if len(scene.facts) > 1 else [triplet for triplet, _, _ in relations]
    rows = numbered(captions(config, scene, triplet, rng) for triplet in described)
    for group, exchange in enumerate(found, len(described)):
        rows += exchanges.rows(exchange, group)
    return {
        "image": encode_jpeg(scene.image),
        "image_id": image_id(config, split, index),
        "license": "Apache-2.0",
        "author": "naturel_jax",
        "source_url": f"{config.name}?seed={config.seed}&split={split}&index={index}",
        "objects": [
            {"label": label, "box": BBox(ymin=ymin, xmin=xmin, ymax=ymax, xmax=xmax)}
            for label, _, (xmin, ymin, xmax, ymax) in map(dataclasses.astuple, scene.things)
        ],
        "relations": [t._asdict() | {"subject_index": i, "object_index": j} for t, i, j in relations],
        "captions": rows,
    }


def image_id(config: ScenesConfig, split: str, index: int) -> str:
    """The name of an example."""
    return f"{config.name}-{split}-{index:07d}"


def _relations(scene: Scene) -> list[Relation]:
    """The triplets of an image, with the rows of subject and object among its things."""
    pairs = (Relation(fact, 2 * n, 2 * n + 1) for n, fact in enumerate(scene.facts))
    return [*pairs, *(Relation(triplet, row, -1) for row, triplet in scene.attributes)]


@functools.lru_cache(maxsize=len(SPLITS))
def exchanged(config: ScenesConfig, split: str) -> dict[str, list[Exchange]]:
    """Image id -> bindings and positions, balanced within the split as those of photos are; all scenes are made for it,
    but not their pixels."""
    if not config.exchanges:
        return {}
    shown = config.compositions()[split == SPLITS[-1]].triplets
    candidates = []
    for index in range(config.sizes[SPLITS.index(split)]):
        scene = draw(config, split, index)
        boxes = ((thing.label, *thing.box) for thing in scene.things)
        objects = tuple((label, Box(xmin, xmax, ymin, ymax)) for label, xmin, ymin, xmax, ymax in boxes)
        image = AnnotatedImage(image_id(config, split, index), objects, tuple(_relations(scene)))
        found = [*bindings(image, Listed(shown), shown.__contains__), *positions(image)]
        if len(scene.facts) > 1:  # what agents exchange need not touch: here, what is not drawn is false
            found = [Exchange("binding", scene.facts, things_exchanged(scene.facts))]
        candidates += [(image.image_id, exchange) for exchange in found]
    return balanced(candidates, config.seed)


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
