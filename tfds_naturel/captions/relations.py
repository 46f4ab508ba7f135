"""Table of relation labels (``relations.tsv``): words, converse, and contradicting labels.

Labels are those of Open Images (V4 and V6), ``left_of`` and ``right_of`` of the drawn scenes, and a few that only
negatives assert (``drop``, ``ignore``, ...), as opposites of labels that have none in Open Images.
"""

import dataclasses
from collections.abc import Container
from pathlib import Path
from typing import Any

from tfds_naturel.captions.attributes import ATTRIBUTES
from tfds_naturel.common.files import read_tsv
from tfds_naturel.common.schema import Triplet


@dataclasses.dataclass(frozen=True)
class Relation:
    """One relation label.

    - ``words``: prepositions (``on top of``) or, with ``verb``, verbs as ``base/third/gerund/past/participle`` with an
      optional particle (``.../danced with``);
    - ``back``: the same fact with the object first (the desk *supports* the cat), as verbs if ``back_verb`` is set;
      passives need no entry;
    - ``converse``: the label with the same meaning and swapped roles;
    - ``symmetric``: A r B implies B r A, so a swap is not a negative;
    - ``mutual``: loosely symmetric (a table is also "at" a chair), so a swap is a negative only if a scene graph
      rules it out;
    - ``excludes``: labels that cannot hold for the same subject and object at the same time; an action on an object
      rules out that the subject ignores it;
    - ``implies``: labels that may also hold for them, annotated or not;
    - ``posture``: a verb (base/third/gerund) that can replace "is" before the preposition.
    """

    words: tuple[str, ...]
    verb: bool = False
    back: tuple[str, ...] = ()
    back_verb: bool = False
    converse: str = ""
    symmetric: bool = False
    mutual: bool = False
    excludes: tuple[str, ...] = ()
    implies: tuple[str, ...] = ()
    posture: str = ""


def _parsed(column: str, cell: str) -> Any:
    kind = type(getattr(Relation(()), column))
    return tuple(filter(None, cell.split("|"))) if kind is tuple else kind(cell)


RELATIONS = {
    row.pop("relation"): Relation(**{column: _parsed(column, cell) for column, cell in row.items()})
    for row in read_tsv(Path(__file__).with_name("relations.tsv"))
}

# Labels that a scene graph can decide. Positives of other triplets also use them, so their words give nothing away.
# ``interacts_with`` is listed twice: existing datasets depend on these sampling probabilities.
DEPICTED = ("on", "under", "inside_of", "at", "holds", "wears", "plays", "hits", "interacts_with", "interacts_with")

CONTRARIES = {attribute.name: attribute.contraries for attribute in ATTRIBUTES}

# Labels ruled out besides ``excludes``. The grammar does not draw from these: only authored captions claim them.
_ALSO_EXCLUDED = {"on": ("inside_of",), "at": ("under",)}


def converse(triplet: Triplet) -> Triplet | None:
    """The equivalent triplet with swapped roles (Desk|under|Cat for Cat|on|Desk), or None if there is none."""
    relation = RELATIONS.get(triplet.relation)
    if relation is None or not (relation.converse or relation.symmetric):
        return None
    return Triplet(triplet.object, relation.converse or triplet.relation, triplet.subject)


def is_mirrored(claim: Triplet | None, listed: Container[Triplet]) -> bool:
    """Whether what a false caption claims is itself one of the ``listed`` triplets, and so true of other photos."""
    return claim is not None and (claim in listed or converse(claim) in listed)


def excluded(triplet: Triplet, claim: Triplet) -> bool:
    """Whether ``claim`` is false whenever ``triplet`` is true, by the meaning of the labels alone."""
    if triplet.relation == "is":
        contrary = claim.object in CONTRARIES.get(triplet.object, ())
        return claim.relation == "is" and claim.subject == triplet.subject and contrary
    return any(_contradicts(fact, claim) for fact in (triplet, converse(triplet)) if fact)


def _contradicts(fact: Triplet, claim: Triplet) -> bool:
    relation = RELATIONS.get(fact.relation, Relation(()))
    if (claim.subject, claim.object) == (fact.subject, fact.object):
        return claim.relation in (*relation.excludes, *_ALSO_EXCLUDED.get(fact.relation, ()))
    swapped = (claim.subject, claim.object) == (fact.object, fact.subject)
    return swapped and claim.relation == fact.relation and not (relation.symmetric or relation.mutual)
