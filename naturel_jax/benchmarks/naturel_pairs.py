"""Shared by NatuRel and its held-out split: each positive caption of an image against its own negative, simple (pair
0) and complex (pairs 1 to 3).
"""

import functools
from pathlib import Path
from typing import Any

from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric, Source, by_value
from naturel_jax.data import identity, prepared
from tfds_naturel.schema import KINDS, POLARITIES, Polarity, Triplet

SOURCE = Source(
    "captions Apache-2.0; Open Images photos under their Flickr licences, or drawn images",
    "README, 'Build NatuRel'",
    "a prepared TFDS folder such as data/naturel/full/2.0.0 (--naturel)",
    prepared=True,
)


def read(folder: Path, split: str, name: str) -> Benchmark:
    """``split`` of a prepared TFDS folder (``.../naturel/<config>/<version>``). Metrics are named ``<name>/...``.

    An item is one pair of captions of one image. Raises whatever ``prepared.open_split`` raises.
    """
    records = prepared.open_split(folder, split).records
    problems: list[str] = []
    items: list[Item] = []
    for n in range(len(records)):
        example = records[n]
        names = (identity.of_name(prepared.to_str(example["image_id"])),)
        image = Image(f"{folder}:{split}:{n}", functools.partial(prepared.read_image, records, n), names=names)
        items += _items(image, example, problems)
    metrics: list[Metric] = []
    for kind in KINDS:
        of_kind = [item for item in items if item.tags["kind"] == kind]
        metrics.append(Metric(f"{name}/{kind}", "right", where=("kind", kind)))
        for tag in ("relation", "triplet"):
            metrics += by_value(f"{name}/{kind}/{tag}", "right", f"{kind} {tag}", of_kind)
    return Benchmark(name, tuple(items), rules.pair, tuple(metrics), problems=tuple(problems), true_captions=1)


def _items(image: Image, example: prepared.Example, problems: list[str]) -> list[Item]:
    """One item per (group, pair) of the example, in the order of its captions."""
    image_id, captions = prepared.to_str(example["image_id"]), example["captions"]
    triplets = list(map(prepared.to_str, captions["triplet"]))
    groups = captions.get("group", triplets)  # version 1.0.0 has one group per triplet, and no column
    pairs: dict[tuple[Any, int], dict[Polarity, int]] = {}  # (group, pair) -> polarity -> row
    for row, (group, pair, polarity) in enumerate(zip(groups, captions["pair"], captions["polarity"], strict=True)):
        pairs.setdefault((group, int(pair)), {})[POLARITIES[polarity]] = row
    items = []
    for (group, pair), rows in pairs.items():
        triplet = triplets[next(iter(rows.values()))]
        item_id = f"{image_id}/{triplet or group}/{pair}"
        if absent := [polarity for polarity in POLARITIES if polarity not in rows]:
            problems.append(f"item {item_id}: has no {absent[0]} caption")
            continue
        texts = tuple(prepared.to_str(captions["text"][rows[polarity]]) for polarity in ("positive", "negative"))
        kind = KINDS[int(captions["kind"][rows["positive"]])]
        items.append(Item(item_id, (image,), texts, _tags(kind, triplet)))
    return items


def _tags(kind: str, triplet: str) -> dict[str, str]:
    if not triplet:
        return {"kind": kind}
    relation = Triplet.parse(triplet).relation
    return {"kind": kind, f"{kind} relation": relation, f"{kind} triplet": triplet, "relation": relation}
