"""The format of a NatuRel example: triplets, captions and TFDS features.

Every config of the builder yields exactly these features, so all downstream code reads one format.
"""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

Kind = Literal["simple", "complex", "binding", "position"]
Polarity = Literal["positive", "negative"]
TRIPLET_KINDS: tuple[Kind, ...] = ("simple", "complex")  # captions of one triplet, in one group
EXCHANGED_KINDS: tuple[Kind, ...] = ("binding", "position")  # captions of facts and of the same facts exchanged
KINDS: tuple[Kind, ...] = (*TRIPLET_KINDS, *EXCHANGED_KINDS)  # stored as indices into these tuples
POLARITIES: tuple[Polarity, ...] = ("negative", "positive")

PAIRS = 4  # (positive, negative) caption pairs per triplet: pair 0 is simple, pairs 1 to 3 are complex


class Triplet(NamedTuple):
    """(subject, relation, object) in Open Images' display names, e.g. ``Triplet('Cat', 'on', 'Coffee table')``.

    For attributes the relation is ``is`` and the object is the attribute's name (``Wooden``).
    """

    subject: str
    relation: str
    object: str

    def __str__(self) -> str:
        return "|".join(self)

    @classmethod
    def parse(cls, text: str) -> "Triplet":
        """Inverse of ``str``. Raises ValueError unless ``text`` is three non-empty fields separated by ``|``."""
        fields = text.split("|")
        if len(fields) != 3 or not all(fields):
            raise ValueError(f"triplet {text!r}: expected 'subject|relation|object', e.g. 'Cat|on|Coffee table'")
        return cls(*fields)


@dataclasses.dataclass(frozen=True)
class Caption:
    """One caption written for a triplet.

    ``asserts`` is the triplet that the text claims: the caption's own triplet for a positive, another one (swapped
    roles, another relation, another attribute) for a negative, and None for a denial, which claims no triplet.
    ``operation`` is how the negative was made (``swap``, ``relation``, ``attribute``, ``denial``; empty for a
    positive), ``shape`` the sentence shape. ``paraphrase`` numbers the wordings of a slot (a pair and a polarity): 0 is
    the fixed one, which tests use.
    """

    text: str
    kind: Kind
    polarity: Polarity
    pair: int
    triplet: Triplet
    asserts: Triplet | None
    operation: str
    shape: str
    paraphrase: int = 0

    def as_features(self) -> dict[str, Any]:
        """The caption's row, except for ``group``."""
        return vars(self) | {"triplet": str(self.triplet), "asserts": str(self.asserts) if self.asserts else ""}


def numbered(groups: Iterable[Iterable[Caption]]) -> list[dict[str, Any]]:
    """The rows of ``captions`` for an example with these groups, one group per triplet that it shows."""
    return [caption.as_features() | {"group": number} for number, group in enumerate(groups) for caption in group]


Facts = tuple[Triplet, ...]  # in ascending order
_SEPARATOR = " || "  # no name of a class has a bar


def name_of(facts: Facts) -> str:
    """The string of facts that a caption claims together: ``Chair|is|Plastic || Table|is|Wooden``."""
    return _SEPARATOR.join(map(str, facts))


def facts_of(name: str) -> Facts:
    """Inverse of ``name_of``."""
    return tuple(map(Triplet.parse, name.split(_SEPARATOR)))


@dataclasses.dataclass(frozen=True, order=True)
class Exchange:
    """Facts that an image shows, and what becomes of them once objects, attributes or sides change places."""

    kind: Kind
    true: Facts
    false: Facts


def features() -> "tfds.features.FeaturesDict":
    """TFDS features of an example.

    - ``objects``: label (display name) and box of every annotated object;
    - ``relations``: one row per annotated pair: subject, relation, object as display names, and the row numbers of
      both in ``objects`` (``object_index`` is -1 for an attribute). A triplet that holds for several pairs has several
      rows;
    - ``captions``: one row per caption, in groups of any number of positives and negatives, numbered 0, 1, ... within
      the example (``group``). A positive and a negative in a group with the same ``pair`` were made from each other; in
      a group with one positive (pair 0), it is paired with every negative (pairs 0, 1, ...). ``paraphrase`` numbers the
      wordings of one caption (a group, pair and polarity) from 0; all claim the same. ``asserts`` is the fact that the
      text claims, with the same string for the same fact in all datasets, or empty if none is claimed or
      known; an image shows the facts that its positives assert. ``triplet`` is the triplet that the caption was written
      for, or empty if it was not made from one.

    In NatuRel itself, a group is the captions of a triplet, with one group for each distinct triplet of the image in
    the order of ``relations``: (positive, negative) of pair 0 (simple), then of the complex pairs 1 to 3; after these
    8, those of paraphrase 1 in the same order, and so on. A positive and a negative with the same pair and paraphrase
    were made from each other. The facts are triplets: ``triplet`` and ``asserts`` are ``str(Triplet)``, and ``asserts``
    is empty for a denial. Groups of bindings and positions follow (``kind``), each with one pair in several wordings,
    an empty ``triplet``, and in ``asserts`` the ``name_of`` the facts that the words claim.
    """
    import tensorflow_datasets as tfds  # slow to import, and only builders need it

    text, index = tfds.features.Text(), tfds.features.Scalar(np.int32)
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "image_id": text,
            "license": text,
            "author": text,
            "source_url": text,
            "objects": tfds.features.Sequence({"label": text, "box": tfds.features.BBoxFeature()}),
            "relations": tfds.features.Sequence(
                {"subject": text, "relation": text, "object": text, "subject_index": index, "object_index": index}
            ),
            "captions": tfds.features.Sequence(
                {
                    "text": text,
                    "group": index,
                    "kind": tfds.features.ClassLabel(names=list(KINDS)),
                    "polarity": tfds.features.ClassLabel(names=list(POLARITIES)),
                    "pair": index,
                    "paraphrase": index,
                    "triplet": text,
                    "asserts": text,
                    "operation": text,
                    "shape": text,
                }
            ),
        }
    )
