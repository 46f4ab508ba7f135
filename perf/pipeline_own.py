"""naturel_jax's input pipeline, as ``pipeline.py`` measures it in processes of its own: other libraries' loaders fork,
which JAX's threads do not survive.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import absl.flags
import jax

from naturel_jax import config
from naturel_jax.data import datasets
from naturel_jax.data.batches.pipeline import Pipeline, make_pipeline
from naturel_jax.data.images.augment import Crops
from naturel_jax.data.items import decoded_writer
from naturel_jax.data.items.items import Group, Source, collect
from naturel_jax.data.text.processor import from_scratch
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.models.presets import preset
from tfds_naturel.captions import bank

_REPEATS = 4  # of what is so fast that its start would count


class Images(NamedTuple):
    """The JPEGs, the pattern of the names of their tar files, and how they are cropped."""

    paths: list[Path]
    tars: str
    size: int
    scale: tuple[float, float]


def ours(pipeline: Pipeline, batch: int, steps: int) -> int:
    """Batches until they are on the device."""
    for each in pipeline.batches(0, steps):
        jax.block_until_ready(each)
    return steps * batch


def _bank_source(images: Images) -> Source:
    """The images, each with the bank's captions of one triplet."""
    groups = [Group.from_triplet(captions) for captions in bank.load().values()]
    items = collect("files", ((str(n), [groups[n % len(groups)]]) for n in range(len(images.paths))))
    return Source(items, functools.partial(_read, images.paths))


def _read(paths: list[Path], n: int) -> bytes:
    """The file of image ``n``."""
    return paths[n].read_bytes()


def _decoded(images: Images) -> Source:
    return decoded_writer.decode(_bank_source(images), Crops(images.size, images.scale), images.paths[0].parent)


def _of_tars(images: Images) -> Source:
    return datasets.open_source(f"webdataset:{images.tars}", str(images.paths[0].parent), "train")


SOURCES: dict[str, Callable[[Images], Source]] = {"files": _bank_source, "decoded": _decoded, "tars": _of_tars}


def prepare(
    kind: str, options: dict[str, str], images: Images, batch: int, epochs: int, threads: int, workers: int
) -> Callable[[], int]:
    """A function that reads all images ``epochs`` times, or more often, and returns how many it read: a training run's
    pipeline, with sampled captions, and batches placed on the device. ``kind``: of ``SOURCES``; ``options``: other
    fields of ``config.data``."""
    absl.flags.FLAGS.mark_as_parsed()  # Grain's reading processes read them
    source = SOURCES[kind](images)
    recipe = "positives" if source.content else "single_pair"
    data = config.Data(
        mixture={"files": config.Part("files", recipe)},
        batch_size=batch,
        crop_scale=images.scale,
        threads=threads,
        workers=workers,
        **options,
    )
    model = preset("tiny-clip")  # only its sizes are used
    model = dataclasses.replace(model, image=dataclasses.replace(model.image, size=images.size))
    processor = from_scratch(model, source.items.texts)
    pipeline = make_pipeline(config.Config(data=data), [source], model, processor, make_mesh({"data": -1}))
    repeats = _REPEATS if "cache" in options else 1
    return functools.partial(ours, pipeline, batch, repeats * (epochs * len(images.paths) // batch))
