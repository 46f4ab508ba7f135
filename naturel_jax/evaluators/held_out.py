"""Leaves out of a benchmark the items whose images a model was trained on, whatever collection they came from.

Shape letters: N items, I images.
"""

import concurrent.futures
import functools
import os
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from naturel_jax.benchmarks.benchmark import Benchmark, Image
from naturel_jax.data.seen import identity
from naturel_jax.data.seen.trained_on import TrainedOn

WAYS = ("name", "bytes", "look")  # how an image is found

_seen: dict[tuple[str, str, bool], identity.Seen | None] = {}  # (path, version, perceptual); None: it cannot be read


def hold_out(benchmark: Benchmark, trained_on: TrainedOn) -> Benchmark:
    """``benchmark`` without the items that have an image among ``trained_on``: of the same name, the same bytes, or
    nearly the same look. Images are read, once per process while they stay the same, if the training images were.

    Under ``jax.distributed``, the first process decides for all.
    """
    if not trained_on:
        return benchmark
    left_out_N = np.zeros(len(benchmark.items), bool)
    if jax.process_index() == 0:
        left_out_N = np.any(list(_items_found(benchmark, trained_on).values()), axis=0)
    left_out_N = multihost_utils.broadcast_one_to_all(left_out_N)
    return benchmark.held_out({item.id for item, left_out in zip(benchmark.items, left_out_N, strict=True) if left_out})


def count_overlaps(benchmark: Benchmark, trained_on: TrainedOn) -> dict[str, int]:
    """How many items of ``benchmark`` have an image among ``trained_on``, found by ``name``, by ``bytes``, by ``look``;
    and how many ``images`` the record has, and how many of them were ``read``. Empty for an empty record."""
    if not trained_on:
        return {}
    numbers = {way: int(items_N.sum()) for way, items_N in _items_found(benchmark.whole, trained_on).items()}
    return {"images": trained_on.images, "read": trained_on.read, **numbers}


def _items_found(benchmark: Benchmark, trained_on: TrainedOn) -> dict[str, np.ndarray]:
    """Way -> which items [N] have an image found in this way."""
    images = {image.key: image for item in benchmark.items for image in item.images}
    row = {key: n for n, key in enumerate(images)}
    return {
        way: np.array([any(found_I[row[image.key]] for image in item.images) for item in benchmark.items], bool)
        for way, found_I in _images_found(list(images.values()), trained_on).items()
    }


def _images_found(images: Sequence[Image], trained_on: TrainedOn) -> dict[str, np.ndarray]:
    """Way -> which of the images [I] are among those trained on."""
    found_I = {way: np.zeros(len(images), bool) for way in WAYS}

    def mark(way: str, has: Callable[[Sequence[int]], np.ndarray], numbers: Iterable[tuple[int, int | None]]) -> None:
        known = [(n, number) for n, number in numbers if number is not None]
        rows, values = zip(*known, strict=True) if known else ((), ())
        found_I[way][np.array(rows, int)[has(values)]] = True

    names = ((n, name) for n, image in enumerate(images) for name in (identity.of_name(image.key), *image.names))
    mark("name", trained_on.has, ((n, identity.number(name)) for n, name in names if name))
    if trained_on.read:
        look = functools.partial(_look, perceptual=len(trained_on.perceptual) > 0)
        with concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
            looks = [(n, seen) for n, seen in enumerate(pool.map(look, images)) if seen]
        mark("bytes", trained_on.has, ((n, seen.content) for n, seen in looks))
        mark("look", trained_on.has_near, ((n, seen.perceptual) for n, seen in looks))
    return found_I


def _look(image: Image, perceptual: bool) -> identity.Seen | None:
    key = (os.path.abspath(image.key), image.version, perceptual)
    if key not in _seen:
        try:
            _seen[key] = identity.look(image.read(), perceptual)
        except (ValueError, OSError):
            _seen[key] = None
    return _seen[key]
