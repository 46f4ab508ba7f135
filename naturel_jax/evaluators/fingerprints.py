"""Digests of everything that a result depends on: what has changed is evaluated again."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from naturel_jax.benchmarks.benchmark import Benchmark, Item

if TYPE_CHECKING:
    from naturel_jax.data.text.processor import Processor
    from naturel_jax.models.two_tower import Model, Params


def of_model(model: "Model", params: "Params", processor: "Processor") -> str:
    """Identifies everything an embedding depends on: sizes, dtype, every parameter's bits, and the processor. What a
    training step recomputes and what it freezes do not count."""
    import jax  # slow to import, and reports do not need it

    digest = hashlib.blake2b(digest_size=16)
    compute = {"dtype": model.compute.dtype, "remat": "none", "attention": model.compute.attention}
    described = {"config": dataclasses.asdict(model.config), "compute": compute}
    digest.update(json.dumps([described, processor.to_dict()], sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def of_pair(model: str, benchmark: Benchmark) -> str:
    """Identifies everything a result depends on: ``of_model``, the items, how many are scored, the sizes and times of
    their images' files (``Image.version``), and this package's version."""
    version, scored = importlib.metadata.version("naturel_jax"), len(benchmark.items)
    described = f"{model} {version} {scored} {benchmark.gallery} {benchmark.together}"
    digest, captions = hashlib.blake2b(described.encode(), digest_size=16), of_captions(benchmark.whole.items)
    for item in benchmark.whole.items:
        images = [(image.key, image.box, image.version) for image in item.images]
        fields = (item.id, images, sorted(item.tags.items()), item.weight)
        digest.update(repr(fields).encode() + captions[id(item.captions)])
    return digest.hexdigest()


def of_captions(items: Sequence[Item]) -> dict[int, bytes]:
    """The digest of each item's captions, by their identity: those of retrieval and classification share one tuple."""
    captions = {id(item.captions): item.captions for item in items}
    return {key: hashlib.blake2b(repr(texts).encode()).digest() for key, texts in captions.items()}
