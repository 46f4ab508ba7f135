"""The items of a dataset without their pixels: the caption groups of each image, and the facts that it shows.

They are in memory (a dozen bytes per caption) or mapped from disk, so every process can plan the whole global batch:
which captions match which images, and which are equal. Pixels are read only by the process that needs them.

Shape letters: N images, G caption groups, C captions of one polarity, T texts, P pairs, B images or groups of a
batch. A trailing 1 means one extra entry: offsets.
"""

import dataclasses
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from naturel_jax.data.items.columns import Strings
from naturel_jax.data.items.decoded import Decoded
from naturel_jax.data.items.embedded import EmbeddedCaptions, ImageEmbeddings
from naturel_jax.data.items.ragged import Ragged, spans
from tfds_naturel.common import schema
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Kind


class Caption(NamedTuple):
    """A caption of a group.

    ``asserts`` names the fact that the words claim, "" if it is unknown or nothing is claimed; equal names mean the
    same fact in every dataset of a run. Positives and negatives written against each other share a ``pair``.
    ``paraphrases``: its wordings 1, 2, ..., which claim the same; those with the same number in both captions of a pair
    were written against each other.
    """

    text: str
    asserts: str = ""
    pair: int = 0
    kind: Kind = "complex"
    paraphrases: Sequence[str] = ()


class Group(NamedTuple):
    """Captions of one image, any number of each polarity. ``attribute``: they name an attribute, not a relation."""

    positives: Sequence[Caption]
    negatives: Sequence[Caption] = ()
    attribute: bool = False

    @classmethod
    def from_triplet(cls, captions: Sequence[schema.Caption]) -> "Group":
        """The group of captions that were written for one triplet."""
        positives: list[Caption] = []
        negatives: list[Caption] = []
        for c in captions:
            if not c.paraphrase:
                others = (o.text for o in captions if o.paraphrase and (o.pair, o.polarity) == (c.pair, c.polarity))
                side = positives if c.polarity == "positive" else negatives
                side.append(Caption(c.text, str(c.asserts or ""), c.pair, c.kind, tuple(others)))
        return cls(positives, negatives, attribute=captions[0].triplet.relation == "is")


@dataclasses.dataclass(frozen=True)
class Captions:
    """The captions of one polarity: rows ``starts_G1[g]`` to ``starts_G1[g + 1]`` belong to group g, in the order of
    their pairs. ``text_C`` indexes ``Items.texts``, and so does ``paraphrases``, which has the wordings 1, 2, ... of
    each caption (None: all have one)."""

    starts_G1: np.ndarray
    text_C: np.ndarray
    pair_C: np.ndarray
    simple_C: np.ndarray
    paraphrases: Ragged | None = None

    def rows(self, group: int, kind: Kind | None = None) -> np.ndarray:
        """Row indices of the captions of ``group``; only those of ``kind`` if given."""
        rows = np.arange(self.starts_G1[group], self.starts_G1[group + 1])
        return rows if kind is None else rows[self.simple_C[rows] == (kind == "simple")]

    def rows_of(self, group_B: np.ndarray, kind: Kind | None = None) -> Ragged:
        """``rows`` of each of these groups."""
        rows = spans(self.starts_G1[group_B], self.starts_G1[group_B + 1])
        return rows if kind is None else rows.keep(self.simple_C[rows.values] == (kind == "simple"))

    def wordings(self, row_B: np.ndarray) -> np.ndarray:
        """Number of wordings of each of these captions."""
        if self.paraphrases is None:
            return np.ones(len(row_B), np.int64)
        return 1 + self.paraphrases.starts[row_B + 1] - self.paraphrases.starts[row_B]

    def texts(self, row_B: np.ndarray, paraphrase_B: np.ndarray) -> np.ndarray:
        """Index of the text of each of these captions in the given wording."""
        text_B = self.text_C[row_B]
        if self.paraphrases is not None:
            other = np.flatnonzero(paraphrase_B)
            text_B[other] = self.paraphrases.values[self.paraphrases.starts[row_B[other]] + paraphrase_B[other] - 1]
        return text_B

    def block(self, first: int, stop: int, kind: Kind | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The captions of groups ``first`` to ``stop - 1``, of ``kind`` if given: the group of each, counted from
        ``first``, and its pair."""
        starts = self.starts_G1[first : stop + 1]
        group = np.repeat(np.arange(stop - first), np.diff(starts))
        pair = self.pair_C[starts[0] : starts[-1]]
        if kind is None:
            return group, pair
        of_kind = self.simple_C[starts[0] : starts[-1]] == (kind == "simple")
        return group[of_kind], pair[of_kind]


@dataclasses.dataclass(frozen=True)
class Tags:
    """Nouns and adjectives of the texts (``tags.py``): row t of ``places`` has those of text t, three numbers each
    (first character, end, kind); ``swappable_T``: whether two of one kind differ; ``made_by``: the tagger and its
    version."""

    places: Ragged
    swappable_T: np.ndarray
    made_by: str


@dataclasses.dataclass(frozen=True)
class Items:
    """Tables over N images, G caption groups, and the distinct texts and facts of a dataset.

    The groups of image n are ``groups_N1[n]`` to ``groups_N1[n + 1]``. ``shows``: for each image, the indices of
    the facts that its positives assert; ``asserts``: for each text, those that it asserts anywhere in the dataset.
    ``left_out``: images that are not trained on, in ascending order; ``tags``: None if the texts are not tagged. The
    tables are lists and arrays in memory, or columns on disk (``columns.py``), in which equal texts may occur more than
    once.
    """

    name: str
    image_ids: Sequence[str]
    texts: Sequence[str]
    facts: Sequence[str]
    groups_N1: np.ndarray
    attribute_G: np.ndarray
    positives: Captions
    negatives: Captions
    shows: Ragged
    asserts: Ragged
    left_out: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    tags: Tags | None = None

    def __len__(self) -> int:
        """Number of images that are trained on."""
        return len(self.image_ids) - len(self.left_out)

    def images(self, k_B: np.ndarray) -> np.ndarray:
        """Indices of the k-th images that are trained on."""
        gaps = self.left_out - np.arange(len(self.left_out))  # images trained on before each one that is left out
        return k_B + np.searchsorted(gaps, k_B, side="right")

    def texts_at(self, text_B: np.ndarray) -> list[str]:
        """The texts with these indices."""
        if isinstance(self.texts, Strings):
            return self.texts.take(text_B)
        return [self.texts[n] for n in text_B.tolist()]

    def image_of(self, group: int) -> str:
        """Id of the image that ``group`` describes."""
        return self.image_ids[int(np.searchsorted(self.groups_N1, group, side="right")) - 1]

    def pairs(self, group_B: np.ndarray, kind: Kind | None = None) -> tuple[Ragged, Ragged]:
        """Row indices of the positive and of the negative of each pair of these groups.

        A positive and a negative form a pair if they share its number; a group's only positive is paired with every
        negative.
        """
        positives, negatives = (side.rows_of(group_B, kind) for side in (self.positives, self.negatives))
        group_P = positives.rows
        others = spans(negatives.starts[group_P], negatives.starts[group_P + 1])  # per positive: all negatives
        positive, negative = positives.values[others.rows], negatives.values[others.values]
        group = group_P[others.rows]
        kept = self.positives.pair_C[positive] == self.negatives.pair_C[negative]
        kept |= positives.lengths[group] == 1
        pairs = Ragged.from_lengths(np.bincount(group[kept], minlength=len(group_B)), positive[kept])
        return pairs, Ragged(pairs.starts, negative[kept])

    def counts(self, first: int, stop: int, kind: Kind | None, paired: bool) -> tuple[np.ndarray, np.ndarray]:
        """How many positives and negatives each of the groups ``first`` to ``stop - 1`` has, or how many ``pairs``."""
        (positive, positive_pair), (negative, negative_pair) = (
            side.block(first, stop, kind) for side in (self.positives, self.negatives)
        )
        positives, negatives = (np.bincount(group, minlength=stop - first) for group in (positive, negative))
        if not paired:
            return positives, negatives
        width = 1 + int(max(positive_pair.max(initial=0), negative_pair.max(initial=0)))
        keys, copies = np.unique(positive.astype(np.int64) * width + positive_pair, return_counts=True)
        place = np.minimum(
            np.searchsorted(keys, wanted := negative.astype(np.int64) * width + negative_pair), len(keys) - 1
        )
        matches = np.where(keys[place] == wanted, copies[place], 0) if len(keys) else np.zeros(len(wanted))
        pairs = np.bincount(negative, matches, minlength=stop - first).astype(np.int64)
        pairs = np.where(positives == 1, negatives, pairs)
        return pairs, pairs

    def trained_on(self, first: int, stop: int) -> np.ndarray:
        """Whether the images of the groups ``first`` to ``stop - 1`` are trained on."""
        change = np.zeros(stop - first + 1, np.int64)  # of the number of images left out that a group belongs to
        for ends, by in ((self.left_out, 1), (self.left_out + 1, -1)):
            np.add.at(change, np.clip(self.groups_N1[ends] - first, 0, stop - first), by)
        return np.cumsum(change)[:-1] == 0


@dataclasses.dataclass(frozen=True)
class Origin:
    """What is known about a source's images. ``cache``: folder for what was found in them (empty: none). ``photos``:
    only copies of an image look alike, whereas drawings of one world all do. ``used``: collection -> its items in the
    source."""

    cache: str = ""
    photos: bool = True
    used: Mapping[str, Collection[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Source:
    """Training data: ``items``, and ``read_image(n)``, which returns the encoded image of item n.

    ``read_image`` must be picklable: the pipeline's reading processes each get a copy. ``content`` identifies the items
    (empty: not known): a run continues only with the same. ``decoded``: the images' pixels, if they are kept.
    ``embedded``: their embeddings by a frozen tower; ``embedded_captions``: embeddings of the texts of ``items``.
    """

    items: Items
    read_image: Callable[[int], bytes]
    content: str = ""
    origin: Origin = dataclasses.field(default_factory=Origin)
    decoded: Decoded | None = None
    embedded: ImageEmbeddings | None = None
    embedded_captions: EmbeddedCaptions | None = None


class _Numbers(dict[str, int]):
    """Numbers strings in order of first use."""

    def __missing__(self, key: str) -> int:
        self[key] = len(self)
        return self[key]


class _Columns:
    """The columns of ``Captions`` while they grow."""

    def __init__(self) -> None:
        self.starts, self.text, self.pair, self.simple = array("q", [0]), array("i"), array("i"), array("b")
        self.others, self.paraphrases = array("q", [0]), array("i")

    def add(self, captions: Sequence[Caption], texts: _Numbers) -> None:
        """Adds the captions of the next group."""
        for caption in sorted(captions, key=lambda caption: caption.pair):
            self.text.append(texts[caption.text])
            self.pair.append(caption.pair)
            self.simple.append(caption.kind == "simple")
            self.paraphrases.extend(texts[text] for text in caption.paraphrases)
            self.others.append(len(self.paraphrases))
        self.starts.append(len(self.text))

    def table(self) -> Captions:
        """The finished table."""
        paraphrases = Ragged(np.array(self.others, np.int64), np.array(self.paraphrases, np.int32))
        return Captions(
            starts_G1=np.array(self.starts, np.int64),
            text_C=np.array(self.text, np.int32),
            pair_C=np.array(self.pair, np.int32),
            simple_C=np.array(self.simple, bool),
            paraphrases=paraphrases if len(paraphrases.values) else None,
        )


def collect(name: str, images: Iterable[tuple[str, Sequence[Group]]]) -> Items:
    """Builds the tables of dataset ``name`` from the id and the caption groups of each image.

    Raises UserError for a dataset without images.
    """
    texts, facts = _Numbers(), _Numbers()
    positives, negatives = _Columns(), _Columns()
    image_ids: list[str] = []
    starts, attributes, shows = array("q", [0]), array("b"), []
    asserts: list[set[int]] = []
    for image_id, groups in images:
        shown: dict[int, None] = {}  # an ordered set
        for group in groups:
            positives.add(group.positives, texts)
            negatives.add(group.negatives, texts)
            attributes.append(group.attribute)
            asserts += (set() for _ in range(len(texts) - len(asserts)))
            for caption in (*group.positives, *group.negatives):
                for text in (caption.text, *caption.paraphrases) if caption.asserts else ():
                    asserts[texts[text]].add(facts[caption.asserts])
            shown |= dict.fromkeys(facts[caption.asserts] for caption in group.positives if caption.asserts)
        image_ids.append(image_id)
        starts.append(len(attributes))
        shows.append(array("i", shown))
    if not image_ids:
        raise UserError(f"{name}: no images; expected at least one")
    return Items(
        name=name,
        image_ids=image_ids,
        texts=list(texts),
        facts=list(facts),
        groups_N1=np.array(starts, np.int64),
        attribute_G=np.array(attributes, bool),
        positives=positives.table(),
        negatives=negatives.table(),
        shows=Ragged.from_rows(shows),
        asserts=Ragged.from_rows(map(sorted, asserts)),
    )
