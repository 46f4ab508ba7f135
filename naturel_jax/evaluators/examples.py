"""Example items of an evaluation, some right and some wrong, with small images: ``examples.json`` beside the scores of
a model on a benchmark. Reports show them without the files of the benchmark."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import Benchmark, Item
from naturel_jax.data.images.thumbnail import thumbnail
from tfds_naturel.common import pages
from tfds_naturel.common.errors import UserError

FILE = "examples.json"
SHOWN = 24  # examples in a report, half of them right
SIDE = 128  # pixels of the longer side of an image
_MOST = 8  # images, and captions, of an item that is shown


class Example(NamedTuple):
    """An item, and whether the model is right. ``images``: data URIs; ``cosines``: row-major [images, captions];
    ``true_captions``: how many of the captions, the first ones, are true of the first image (0: not known)."""

    benchmark: str
    id: str
    right: bool
    images: tuple[str, ...]
    captions: tuple[str, ...]
    cosines: tuple[float, ...]
    true_captions: int


def per_benchmark(benchmarks: int) -> int:
    """How many right and how many wrong examples each of ``benchmarks`` benchmarks has, so that all have ``SHOWN``."""
    return math.ceil(SHOWN / 2 / benchmarks)


def choose(benchmark: Benchmark, table: pa.Table, outcome: str, number: int) -> list[Example]:
    """``number`` items that are right (1 in the column ``outcome``) and as many that are wrong (0), in an order that
    depends on their ids only. ``table``: the rows of ``items.parquet``. Items with an image that cannot be read, or
    with more than eight captions, are left out."""
    items = {item.id: item for item in benchmark.items if _fits(item)}
    outcomes, ids = table[outcome].to_pylist(), table["id"].to_pylist()
    found: list[Example] = []
    for right in (True, False):
        places = [n for n, value in enumerate(outcomes) if value == right and ids[n] in items]
        left = number
        for n in sorted(places, key=lambda n: hashlib.blake2b(ids[n].encode("utf-8", "replace")).digest()):
            if not left:
                break
            row = table.slice(n, 1).to_pylist()[0]
            if (example := _example(benchmark, items[ids[n]], row, right)) is not None:
                found.append(example)
                left -= 1
    return found


def _fits(item: Item) -> bool:
    return 0 < len(item.images) <= _MOST and 0 < len(item.captions) <= _MOST


def _example(benchmark: Benchmark, item: Item, row: dict[str, Any], right: bool) -> Example | None:
    try:
        small = [thumbnail(image.read(), SIDE, image.box) for image in item.images]
    except (OSError, ValueError):
        return None
    images, captions = tuple(pages.data_uri(one.form, one.data) for one in small), tuple(row["captions"])
    cosines = tuple(round(cosine, 4) for cosine in row["cosines"][: len(images) * len(captions)])
    return Example(benchmark.name, item.id, right, images, captions, cosines, benchmark.true_captions)


def write(folder: epath.Path, examples: Sequence[Example]) -> None:
    """Writes the examples of one benchmark to its ``folder``."""
    storage.write_json(folder / FILE, {"examples": [example._asdict() for example in examples]})


def load(folder: epath.Path) -> list[Example]:
    """The examples in the results of a model: in turns a right and a wrong one of each benchmark. Raises UserError
    for a damaged file."""
    found = [_read(folder / name / FILE) for name in storage.names(folder) if not name.startswith(".")]
    sides = [[example for example in read if example.right == right] for read in found for right in (True, False)]
    return [side[n] for n in range(SHOWN) for side in sides if n < len(side)][:SHOWN]


def _read(path: epath.Path) -> list[Example]:
    if not storage.exists(path):
        return []
    try:
        rows = storage.read_json(path)["examples"]
        lists = ("images", "captions", "cosines")
        return [_checked(Example(**row | {name: tuple(row[name]) for name in lists})) for row in rows]
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: not the examples of an evaluation ({error!r}); evaluate again") from error


def _checked(example: Example) -> Example:
    """``example``. Raises TypeError for another type, and OverflowError for a number beyond floats."""
    texts = (example.benchmark, example.id, *example.images, *example.captions)
    if not all(isinstance(text, str) for text in texts) or not isinstance(example.true_captions, int):
        raise TypeError(f"an example is {example!r:.80}")
    if not all(isinstance(cosine, int | float) and not math.isinf(cosine) for cosine in example.cosines):
        raise TypeError(f"cosines are {example.cosines!r:.80}")
    return example
