"""NatuRel: each positive caption of an image against its own negative, simple (pair 0) and complex (pairs 1 to 3)."""

from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric, by_value
from naturel_jax.benchmarks.files import BenchmarkError
from tfds_naturel.schema import Triplet

KINDS = ("simple", "complex")


def read(tfds_dir: Path, split: str = "test", name: str = "naturel") -> Benchmark:
    """From a prepared TFDS folder (``.../naturel/<config>/<version>``) in ArrayRecord. Metrics are called
    ``<name>/...``.

    An item is one pair of captions of one image. Raises BenchmarkError when the folder or split is not there.
    """
    source = _source(tfds_dir, split)
    problems, items = [], []
    for index in range(len(source)):
        example = source[index]
        image = Image(f"{tfds_dir}:{split}:{index}", lambda index=index: source[index]["image"])
        items += _items(image, example, problems)
    metrics = []
    for kind in KINDS:
        of_kind = [item for item in items if item.tags["kind"] == kind]
        metrics.append(Metric(f"{name}/{kind}", "right", where=("kind", kind)))
        for tag in ("relation", "triplet"):
            metrics += by_value(f"{name}/{kind}/{tag}", "right", f"{kind} {tag}", of_kind)
    return Benchmark(name, tuple(items), rules.pair, tuple(metrics), problems=tuple(problems), true_captions=1)


def _source(tfds_dir: Path, split: str):
    if not (Path(tfds_dir) / "dataset_info.json").exists():
        raise BenchmarkError(f"{tfds_dir}: not a prepared TFDS folder (it has no dataset_info.json)")
    builder = tfds.builder_from_directory(tfds_dir)
    if split not in builder.info.splits:
        raise BenchmarkError(f"{tfds_dir}: no split {split!r}; it has {', '.join(builder.info.splits)}")
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def _items(image: Image, example: dict[str, Any], problems: list[str]) -> list[Item]:
    """One item per (triplet, pair) of the example, in the order of its captions."""
    image_id, captions = example["image_id"].decode(), example["captions"]
    pairs: dict[tuple[str, int], dict[int, int]] = {}
    for row, (triplet, pair, polarity) in enumerate(
        zip(captions["triplet"], captions["pair"], captions["polarity"], strict=True)
    ):
        pairs.setdefault((triplet.decode(), int(pair)), {})[int(polarity)] = row
    items = []
    for (triplet, pair), rows in pairs.items():
        item_id = f"{image_id}/{triplet}/{pair}"
        if set(rows) != {0, 1}:
            problems.append(f"item {item_id}: has no {'negative' if 0 not in rows else 'positive'} caption")
            continue
        texts = tuple(captions["text"][rows[polarity]].decode() for polarity in (1, 0))
        kind = KINDS[int(captions["kind"][rows[1]])]
        relation = Triplet.parse(triplet).relation
        tags = {"kind": kind, f"{kind} relation": relation, f"{kind} triplet": triplet, "relation": relation}
        items.append(Item(item_id, (image,), texts, tags))
    return items
