"""The items of a dataset without their pictures: which captions were written for each image, which triplets it shows.

Small enough to stay in memory (about 40 bytes per image and triplet), so every process can work out the whole global
batch: who matches whom, which captions are the same. Only pixels are read by the process that needs them.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

SLOTS = 8  # captions of one triplet: (positive, negative) of pairs 0 (simple) to 3


@dataclasses.dataclass(frozen=True)
class Items:
    """Tables over N images, G (image, triplet) groups, distinct captions and distinct triplets.

    ``groups_N1``: group numbers of image n are ``groups_N1[n]`` to ``groups_N1[n + 1]``; ``triplet_G`` their triplets;
    ``captions_G8`` rows of ``texts`` ordered (positive, negative) x pair, -1 where a slot is empty; ``asserts`` for
    each text the triplets it claims anywhere in the dataset.
    """

    name: str
    image_ids: list[str]
    texts: list[str]
    asserts: list[tuple[int, ...]]
    triplets: list[str]
    groups_N1: np.ndarray
    triplet_G: np.ndarray
    captions_G8: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    def groups(self, n: int) -> range:
        """Group numbers of image ``n``."""
        return range(self.groups_N1[n], self.groups_N1[n + 1])

    def shows(self, n: int) -> np.ndarray:
        """Triplet numbers that image ``n`` shows."""
        return self.triplet_G[self.groups_N1[n] : self.groups_N1[n + 1]]


class _Numbers(dict):
    """Numbers keys in the order of their first use."""

    def __missing__(self, key):
        self[key] = len(self)
        return self[key]


def collect(name: str, examples: Iterable[Mapping[str, Any]]) -> Items:
    """Builds the tables from decoded examples (``tfds_naturel.schema.features``; the image is not looked at).

    Raises ValueError for an example with no caption, or two captions in one slot.
    """
    texts, triplets = _Numbers(), _Numbers()
    asserts: dict[int, set[int]] = {}
    image_ids, groups, triplet_G, captions_G8 = [], [0], [], []
    for example in examples:
        rows = example["captions"]
        slots: dict[int, np.ndarray] = {}
        for text, triplet, asserted, pair, polarity in zip(
            rows["text"], rows["triplet"], rows["asserts"], rows["pair"], rows["polarity"], strict=True
        ):
            number = texts[_str(text)]
            claimed = asserts.setdefault(number, set())
            if asserted := _str(asserted):
                claimed.add(triplets[asserted])
            group = slots.setdefault(triplets[_str(triplet)], np.full(SLOTS, -1, np.int32))
            slot = 2 * int(pair) + (int(polarity) == 0)  # schema: polarity 0 is negative
            if group[slot] >= 0:
                raise ValueError(
                    f"{name}, image {_str(example['image_id'])!r}: two captions for pair {pair} of {_str(triplet)}"
                )
            group[slot] = number
        if not slots:
            raise ValueError(
                f"{name}, image {_str(example['image_id'])!r}: no captions; every image of a training set needs some"
            )
        image_ids.append(_str(example["image_id"]))
        triplet_G += slots.keys()
        captions_G8 += slots.values()
        groups.append(len(triplet_G))
    return Items(
        name=name,
        image_ids=image_ids,
        texts=list(texts),
        asserts=[tuple(sorted(asserts[n])) for n in range(len(texts))],
        triplets=list(triplets),
        groups_N1=np.array(groups, np.int64),
        triplet_G=np.array(triplet_G, np.int32),
        captions_G8=np.array(captions_G8, np.int32).reshape(-1, SLOTS),
    )


def _str(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@dataclasses.dataclass(frozen=True)
class Source:
    """A split of a prepared TFDS dataset: ``items`` in memory, encoded pictures on disk in the same order."""

    items: Items
    records: Sequence[Mapping[str, Any]]

    def picture(self, n: int) -> bytes:
        """The encoded picture of item ``n``."""
        return self.records[n]["image"]


def open_source(directory: str | os.PathLike, split: str) -> Source:
    """Opens ``split`` of the dataset prepared in ``directory`` (``<data_dir>/<name>/<config>/<version>``).

    Raises FileNotFoundError when nothing is prepared there, ValueError for an unknown split.
    """
    import tensorflow_datasets as tfds  # slow to import; only processes that read datasets pay

    if not os.path.exists(os.path.join(directory, "dataset_info.json")):
        raise FileNotFoundError(
            f"no prepared dataset in {directory} (dataset_info.json is missing); build it or correct config.data"
        )
    builder = tfds.builder_from_directory(os.fspath(directory))
    if split not in builder.info.splits:
        raise ValueError(f"{directory} has no split {split!r}; it has: {', '.join(sorted(builder.info.splits))}")
    records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    name = f"{builder.info.full_name}:{split}"
    return Source(collect(name, (records[n] for n in range(len(records)))), records)
