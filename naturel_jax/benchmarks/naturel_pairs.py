"""NatuRel's test split, whose triplets also occur in training images, and its held-out compositions, which do not: each
positive caption of an image against its own negative, simple (pair 0) and complex (pairs 1 to 3).
``mirrored``: whether what the negative claims is true of another image of the split, so that its words tell less.
"""

import functools
from collections.abc import Collection, Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Entry, Image, Item, Metric, Origin, Overlap, Source, by_value
from naturel_jax.data.items import prepared
from naturel_jax.data.seen import identity
from tfds_naturel.captions.relations import is_mirrored
from tfds_naturel.common.schema import KINDS, POLARITIES, TRIPLET_KINDS, Kind, Polarity, Triplet

SOURCE = Source(
    "captions Apache-2.0; Open Images photos under their Flickr licences, or drawn images",
    "docs/naturel.md",
    "a prepared TFDS folder such as data/naturel/full/4.1.0 (--naturel)",
    prepared=True,
    origins=(
        Origin(
            "Open Images (train), split by this builder",
            "https://arxiv.org/abs/1811.00982",
            (
                Overlap("Open Images (train)", "the same images"),
                Overlap("COCO, Visual Genome, Flickr30k", "are photos from Flickr too; no count is known"),
            ),
        ),
    ),
)


def read(folder: Path, split: str, name: str) -> Benchmark:
    """``split`` of a prepared TFDS folder (``.../naturel/<config>/<version>``). Metrics are named ``<name>/...``.

    An item is one pair of captions of one image. Raises whatever ``prepared.open_split`` raises.
    """
    problems: list[str] = []
    found = list(photos(folder, split, problems))
    shown = {Triplet.parse(pair.triplet) for _, pair in found if pair.triplet}
    items = [Item(pair.id, (image,), pair.texts, pair.tags | pair.mirrored(shown)) for image, pair in found]
    metrics: list[Metric] = []
    for kind in TRIPLET_KINDS:
        of_kind = [item for item in items if item.tags["kind"] == kind]
        metrics.append(Metric(f"{name}/{kind}", "right", where=("kind", kind)))
        for tag in ("mirrored", "relation", "triplet"):
            metrics += by_value(f"{name}/{kind}/{tag}", "right", f"{kind} {tag}", of_kind)
    return Benchmark(name, items, rules.pair, metrics, problems=problems, true_captions=1, chance=rules.PAIR)


TEST = Entry(SOURCE, functools.partial(read, split="test", name="naturel"))
UNSEEN = Entry(SOURCE, functools.partial(read, split="test_unseen_triplets", name="naturel_unseen"))


class Pair(NamedTuple):
    """A true and a false caption of an image (``texts``), in their fixed wording (paraphrase 0). ``triplet``: the one
    they were written for, or empty; ``asserts``: what the false one claims, empty for a denial; ``wordings``: the true
    one's paraphrases 1, 2, ...; ``shows``: what the true one claims."""

    id: str
    texts: tuple[str, str]
    kind: str
    triplet: str
    asserts: str
    wordings: tuple[str, ...] = ()
    shows: str = ""

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the pair's item."""
        if not self.triplet:
            return {"kind": self.kind}
        relation = Triplet.parse(self.triplet).relation
        of_kind = {f"{self.kind} relation": relation, f"{self.kind} triplet": self.triplet}
        return {"kind": self.kind, **of_kind, "relation": relation}

    def mirrored(self, shown: Container[Triplet]) -> dict[str, str]:
        """A tag for whether the false caption claims one of the triplets that the split's photos have ``shown``."""
        claim = Triplet.parse(self.asserts) if self.asserts and self.triplet else None
        return {f"{self.kind} mirrored": ("no", "yes")[is_mirrored(claim, shown)]} if self.triplet else {}


def photos(folder: Path, split: str, problems: list[str]) -> Iterator[tuple[Image, Pair]]:
    """Each of the ``caption_pairs`` of a split, with its photo."""
    records = prepared.open_split(folder, split).records
    for n in range(len(records)):
        example = records[n]
        image = photo(folder, split, records, n, prepared.to_str(example["image_id"]))
        yield from ((image, pair) for pair in caption_pairs(example, problems))


def photo(folder: Path, split: str, records: prepared.Records, n: int, image_id: str) -> Image:
    """The image of record ``n``."""
    read_image = functools.partial(prepared.read_image, records, n)
    names = (identity.of_name(image_id),)
    return Image(f"{folder}:{split}:{n}", read_image, names=names, version=records.version)


def caption_pairs(
    example: prepared.Example, problems: list[str], kinds: Collection[Kind] = TRIPLET_KINDS
) -> Iterator[Pair]:
    """The pairs of a decoded example that are of these kinds, in caption order. Pairs that lack a caption are reported
    in ``problems``."""
    image_id, captions = prepared.to_str(example["image_id"]), example["captions"]
    texts, triplets, asserts = (list(map(prepared.to_str, captions[name])) for name in ("text", "triplet", "asserts"))
    rows_of: dict[tuple[Any, int], dict[Polarity, int]] = {}  # (group, pair) -> polarity -> row of paraphrase 0
    wordings: dict[tuple[Any, int], tuple[str, ...]] = {}
    columns = (captions[name] for name in ("group", "pair", "polarity", "paraphrase", "kind"))
    for row, (group, pair, polarity, paraphrase, kind) in enumerate(zip(*columns, strict=True)):
        if KINDS[kind] not in kinds:
            continue
        place = (group, int(pair))
        if not paraphrase:
            rows_of.setdefault(place, {})[POLARITIES[polarity]] = row
        elif POLARITIES[polarity] == "positive":
            wordings[place] = (*wordings.get(place, ()), texts[row])
    for (group, pair), rows in rows_of.items():
        triplet = triplets[next(iter(rows.values()))]
        pair_id = f"{image_id}/{triplet or group}/{pair}"
        if absent := [polarity for polarity in POLARITIES if polarity not in rows]:
            problems.append(f"item {pair_id}: has no {absent[0]} caption")
            continue
        true, false = rows["positive"], rows["negative"]
        of_kind, fixed = KINDS[int(captions["kind"][true])], (texts[true], texts[false])
        further = wordings.get((group, pair), ())
        yield Pair(pair_id, fixed, of_kind, triplet, asserts[false], further, asserts[true])
