"""NatuRel's bindings and positions: two photos that show the opposite of each other, and the caption of each. The words
of both are true as often as false, so text alone wins nothing.

An item is such a pair of photos of the splits ``test`` and ``test_unseen_triplets``, scored as in Winoground: ``text``,
``image`` and ``group``; ``pair`` is the share of its two photos that prefer their own caption.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from naturel_jax.benchmarks import naturel_pairs, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Entry, Image, Item, Metric, Outcomes, by_value
from naturel_jax.data.items import prepared
from tfds_naturel.captions.exchanges import relations_of
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Kind, facts_of
from tfds_naturel.sources.examples import metadata

_SCORES = ("pair", *rules.STRICT)
CHANCE = {**rules.GROUPS, "pair": 1 / 2}


class _Shown(NamedTuple):
    """A photo, and its pair of captions."""

    image: Image
    pair: naturel_pairs.Pair


def read(folder: Path, kind: Kind, name: str) -> Benchmark:
    """The test splits of a prepared TFDS folder, ``.../naturel/<config>/<version>``. Raises UserError if they have no
    captions of ``kind``.

    ``seen`` is over the items whose two claims are also those of training captions, ``unseen`` over the others.
    """
    problems: list[str] = []
    items: list[Item] = []
    for split in ("test", "test_unseen_triplets"):
        try:
            records = prepared.open_split(folder, split).records
        except UserError:
            if split == "test":
                raise
            continue  # a small dataset holds nothing out
        items += _items(folder, split, records, kind, problems)
    if not items:
        raise UserError(
            f"{folder}: no captions of kind {kind!r} in its test splits; {name} needs a dataset with images that show "
            "the opposite of each other"
        )
    metrics = [Metric(f"{name}/{score}", score) for score in _SCORES]
    for tag in ("trained", "relation"):
        for score in _SCORES:
            metrics += by_value(f"{name}/{score}", score, tag, items)
    return Benchmark(name, items, outcomes, metrics, problems=problems, true_captions=1, chance=CHANCE)


BINDINGS = Entry(naturel_pairs.SOURCE, functools.partial(read, kind="binding", name="naturel_bindings"))
POSITIONS = Entry(naturel_pairs.SOURCE, functools.partial(read, kind="position", name="naturel_positions"))


def _items(folder: Path, split: str, records: prepared.Records, kind: Kind, problems: list[str]) -> Iterator[Item]:
    """Pairs of photos, in the order of the records: the first that shows something with the first of its opposite."""
    counts = metadata(folder, "exchanges")
    trained = counts.get("train", {}).get(kind, {}).keys()  # the builder counts claims, so they need not be read
    waiting: dict[tuple[str, str], list[_Shown]] = {}  # (what a photo shows, what is false of it) -> photos
    for n in range(len(records)):
        example = {name: records.value(n, name) for name in ("image_id", "captions")}
        image = naturel_pairs.photo(folder, split, records, n, prepared.to_str(example["image_id"]))
        for pair in naturel_pairs.caption_pairs(example, problems, (kind,)):
            if opposite := waiting.get((pair.asserts, pair.shows)):
                first = opposite.pop(0)
                claims = (first.pair.shows, pair.shows)
                tags = {
                    "relation": tuple(sorted({relations_of(facts_of(claim)) for claim in claims})),
                    "trained": "seen" if set(claims) <= trained else "unseen",
                }
                images, captions = (first.image, image), (first.pair.texts[0], pair.texts[0])
                yield Item(f"{first.pair.id}+{pair.id}", images, captions, tags)
            else:
                waiting.setdefault((pair.shows, pair.asserts), []).append(_Shown(image, pair))
    problems += (
        f"item {shown.pair.id}: no photo of {split} shows the opposite" for left in waiting.values() for shown in left
    )


def outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """Two photos, two captions: the first is true of photo 1 only, the second of photo 2 only."""
    s = np.stack(cosines)
    own = (s[:, 0, 0] > s[:, 0, 1]).astype(float) + (s[:, 1, 1] > s[:, 1, 0])
    return {**rules.two_by_two(items, cosines), "pair": own / 2}
