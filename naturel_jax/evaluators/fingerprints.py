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
    config = dataclasses.asdict(model.config)
    if not config["image"]["naflex"]:
        del config["image"]["naflex"]  # results from before there was one are of the same model
    described = {"config": config, "compute": compute}
    digest.update(json.dumps([described, processor.to_dict()], sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def of_pair(model: str, benchmark: Benchmark) -> str:
    """Identifies everything a result depends on: ``of_model``, the items, the sizes and times of their
    images' files (``Image.version``), and this package's version."""
    digest = hashlib.blake2b(f"{model} {importlib.metadata.version('naturel_jax')}".encode(), digest_size=16)
    if benchmark.left_out:
        digest.update(f"{len(benchmark.items)} scored".encode())
        digest.update(b", in the whole gallery" * benchmark.gallery)  # before, without those left out
    if benchmark.together:  # before, items were resampled one by one
        digest.update(f"together by {benchmark.together}".encode())
    captions = of_captions(benchmark.whole.items)
    for item in benchmark.whole.items:
        images = [(image.key, image.box, *filter(None, [image.version])) for image in item.images]
        weight = (item.weight,) if item.weight != 1 else ()
        fields = (item.id, images, sorted(item.tags.items()), *weight)
        digest.update(repr(fields).encode() + captions[id(item.captions)])
    return digest.hexdigest()


def of_captions(items: Sequence[Item]) -> dict[int, bytes]:
    """The digest of each item's captions, by their identity: those of retrieval and classification share one tuple."""
    captions = {id(item.captions): item.captions for item in items}
    return {key: hashlib.blake2b(repr(texts).encode()).digest() for key, texts in captions.items()}
