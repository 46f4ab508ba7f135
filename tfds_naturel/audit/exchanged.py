"""Bindings and positions of a prepared dataset: samples for readers, and the page on which people compare them with
their photos."""

import collections
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfds_naturel.audit.attack import Pair
from tfds_naturel.audit.form import Question, Screen
from tfds_naturel.audit.readers import SHOWN, Item
from tfds_naturel.captions.exchanges import relations_of
from tfds_naturel.common import pages
from tfds_naturel.common.builders import open_builder
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import EXCHANGED_KINDS, KINDS, POLARITIES, Triplet, facts_of, features

Example = Mapping[str, Any]


class Found(NamedTuple):
    """A pair of a photo in one of its wordings, and all facts that the two captions claim. ``place``: the split and row
    of the photo."""

    pair: Pair
    facts: tuple[Triplet, ...]
    place: tuple[str, int]


def open_splits(dataset: Path) -> dict[str, Sequence[Example]]:
    """Split -> its examples, with encoded photos.

    Raises UserError for another format than the current one, and what ``open_builder`` raises.
    """
    import tensorflow_datasets as tfds  # slow to import, and `--help` does not need it

    builder = open_builder(dataset)
    if repr(builder.info.features) != repr(features()) or builder.info.file_format.value != "array_record":
        raise UserError(f"--dataset {dataset}: not NatuRel in its current format, with bindings; build it again")
    skipped = {"image": tfds.decode.SkipDecoding()}
    return {split: builder.as_data_source(split, decoders=skipped) for split in builder.info.splits}


def find(splits: Mapping[str, Sequence[Example]]) -> Iterator[Found]:
    """The pairs of all bindings and positions, in all wordings, grouped by image."""
    for split, examples in splits.items():
        for number in range(len(examples)):
            for pair, facts in _pairs(examples[number]):
                yield Found(pair, facts, (split, number))


def _pairs(example: Example) -> Iterator[tuple[Pair, tuple[Triplet, ...]]]:
    columns = ("kind", "group", "paraphrase", "polarity", "text", "asserts")
    sides: dict[Any, dict[str, tuple[str, tuple[Triplet, ...]]]] = collections.defaultdict(dict)
    for kind, group, paraphrase, polarity, text, asserts in zip(*map(example["captions"].get, columns), strict=True):
        if KINDS[kind] in EXCHANGED_KINDS:
            said = text.decode(), facts_of(asserts.decode())
            sides[KINDS[kind], group, paraphrase][POLARITIES[polarity]] = said
    for (kind, *_), both in sides.items():
        (true, shown), (false, claimed) = both["positive"], both["negative"]
        yield Pair(true, false, example["image_id"].decode(), relations_of(shown), kind=kind), (*shown, *claimed)


def draw(found: Iterator[Found], key: Callable[[Found], Hashable], rng: np.random.Generator) -> list[Found]:
    """One of those with the same ``key``, at random; and as many bindings as positions if there are both, so that a
    sample tells about either."""
    every = list(found)
    one = {key(every[n]): every[n] for n in rng.permutation(len(every))}
    of_kind = collections.defaultdict(list)
    for chosen in one.values():
        of_kind[chosen.pair.kind].append(chosen)
    fewest = min(map(len, of_kind.values()), default=0)
    return [chosen for kind in sorted(of_kind) for chosen in of_kind[kind][:fewest]]


def screens(
    splits: Mapping[str, Sequence[Example]], chosen: Sequence[Found], rng: np.random.Generator
) -> tuple[list[Screen], list[Item], dict[str, list[dict[str, Any]]]]:
    """A screen for each of ``chosen``, in random order and with its two captions in random order; the questions on all
    of them; and the photos, by the screens' titles."""
    found, photos = [], {}
    items: list[Item] = []
    for pair, facts, (split, row) in (chosen[n] for n in rng.permutation(len(chosen))):
        subjects = {fact.subject for fact in facts}
        things = sorted(subjects | {fact.object for fact in facts if fact.relation != "is"})
        labels = rng.permutation(["true", "false"]).tolist()
        both = [
            Item(f"photo-{n}", "photo", pair.group, getattr(pair, label), "", label, pair.relation, "", pair.kind)
            for n, label in enumerate(labels, len(items) + 1)
        ]
        items += both
        asked = (Question("photo", (item.first,), {name: getattr(item, name) for name in SHOWN}) for item in both)
        found.append(Screen("|".join((*things, pair.group)), tuple(asked)))
        photos[found[-1].title] = [_photo(splits[split][row], things, subjects)]
    return found, items, photos


def _photo(example: Example, things: Sequence[str], subjects: set[str]) -> dict[str, Any]:
    """The photo as the page shows it, with the boxes of ``things``."""
    boxes = [
        (label.decode(), "subject" if label.decode() in subjects else "object", (xmin, xmax, ymin, ymax))
        for label, box in zip(*map(example["objects"].get, ("label", "box")), strict=True)
        for ymin, xmin, ymax, xmax in [box.tolist()]
        if label.decode() in things
    ]
    address = pages.data_uri("jpeg", example["image"])
    return {"image_id": example["image_id"].decode(), "address": address, "boxes": boxes}
