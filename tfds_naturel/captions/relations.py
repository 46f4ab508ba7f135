"""The table of relation labels: words, converse, and contradicting labels.

Labels are those of Open Images (V4 and V6), ``left_of`` and ``right_of`` of the drawn scenes, and a few that only
negatives assert (``drop``, ``ignore``, ...), as opposites of labels that have none in Open Images.
"""

import dataclasses
from typing import Any

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
    - ``excludes``: labels that cannot hold for the same subject and object at the same time;
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


def _verb(*words: str, **fields: Any) -> Relation:
    return Relation(words, verb=True, **fields)


def _act(*words: str, implies: tuple[str, ...] = (), symmetric: bool = False) -> Relation:
    """An action on an object, which rules out that the subject ignores it."""
    return _verb(*words, symmetric=symmetric, excludes=("ignore",), implies=("interacts_with", *implies))


RELATIONS: dict[str, Relation] = {
    "on": Relation(
        ("on", "on top of", "atop", "upon"),
        back=("support/supports/supporting/supported/supported",),
        back_verb=True,
        converse="under",
        excludes=("under", "off", "beside"),
        implies=("at", "interacts_with"),
        posture="rest/rests/resting",
    ),
    "under": Relation(
        ("under", "beneath", "underneath", "below"), back=("above", "over"), converse="on", excludes=("on",)
    ),
    "inside_of": Relation(
        ("inside", "in", "inside of", "within"),
        converse="contain",
        excludes=("outside_of", "beside", "under", "on"),
        implies=("at", "interacts_with"),
    ),
    "contain": _verb("contain/contains/containing/contained/contained", converse="inside_of", excludes=("inside_of",)),
    "off": Relation(("off",), excludes=("on",)),
    "beside": Relation(("beside", "next to", "by"), symmetric=True, excludes=("on", "inside_of")),
    "outside_of": Relation(("outside", "outside of"), excludes=("inside_of",)),
    "at": Relation(("at", "right by", "up close to"), mutual=True, excludes=("away_from", "on", "inside_of")),
    "away_from": Relation(("far from", "far away from", "a long way from"), symmetric=True, excludes=("at",)),
    "left_of": Relation(
        ("to the left of", "left of", "on the left of"), converse="right_of", excludes=("right_of",), implies=("at",)
    ),
    "right_of": Relation(
        ("to the right of", "right of", "on the right of"), converse="left_of", excludes=("left_of",), implies=("at",)
    ),
    "hang": Relation(("suspended from", "hung from"), excludes=("under", "away_from"), implies=("on", "at")),
    "holds": _verb(
        "hold/holds/holding/held/held",
        "grip/grips/gripping/gripped/gripped",
        "clutch/clutches/clutching/clutched/clutched",
        excludes=("drop",),
        implies=("interacts_with", "at", "wears", "plays"),
    ),
    "drop": _verb("drop/drops/dropping/dropped/dropped", excludes=("holds", "wears", "catch")),
    "wears": _verb(
        "wear/wears/wearing/wore/worn",
        "sport/sports/sporting/sported/sported",
        excludes=("drop",),
        implies=("interacts_with", "at", "holds"),
    ),
    "hits": _verb(
        "hit/hits/hitting/hit/hit",
        "strike/strikes/striking/struck/struck",
        excludes=("miss",),
        implies=("interacts_with", "at"),
    ),
    "miss": _verb("miss/misses/missing/missed/missed", excludes=("hits", "kick", "catch")),
    "kick": _verb("kick/kicks/kicking/kicked/kicked", excludes=("miss",), implies=("hits", "interacts_with", "at")),
    "throw": _verb(
        "throw/throws/throwing/threw/thrown",
        "toss/tosses/tossing/tossed/tossed",
        excludes=("catch",),
        implies=("interacts_with", "holds"),
    ),
    "catch": _verb(
        "catch/catches/catching/caught/caught",
        excludes=("throw", "miss", "drop"),
        implies=("interacts_with", "holds"),
    ),
    "ignore": _verb("ignore/ignores/ignoring/ignored/ignored", excludes=("interacts_with", "plays")),
    "plays": _act("play/plays/playing/played/played", implies=("holds", "wears", "at", "hits")),
    "interacts_with": _act(
        "interact/interacts/interacting/interacted/interacted with",
        "engage/engages/engaging/engaged/engaged with",
        symmetric=True,
        implies=("at", "holds", "hits", "plays"),
    ),
    "ride": _act("ride/rides/riding/rode/ridden", implies=("on", "at")),
    "skateboard": _act("ride/rides/riding/rode/ridden", implies=("on", "ride")),
    "surf": _act("surf/surfs/surfing/surfed/surfed on", implies=("on", "ride")),
    "ski": _act("glide/glides/gliding/glided/glided on", implies=("on", "ride", "wears")),
    "snowboard": _act("ride/rides/riding/rode/ridden", implies=("on", "ride", "wears")),
    "drink": _act("drink/drinks/drinking/drank/drunk", "sip/sips/sipping/sipped/sipped", implies=("holds",)),
    "eat": _act("eat/eats/eating/ate/eaten", implies=("holds",)),
    "read": _act("read/reads/reading/read/read", implies=("holds",)),
    "cut": _act("cut/cuts/cutting/cut/cut", "slice/slices/slicing/sliced/sliced", implies=("holds",)),
    "talk_on_phone": _act("talk/talks/talking/talked/talked on", implies=("holds",)),
    "dance": _act("dance/dances/dancing/danced/danced with", symmetric=True, implies=("holds",)),
    "handshake": _act("shake/shakes/shaking/shook/shaken hands with", symmetric=True, implies=("holds",)),
    "hug": _act(
        "hug/hugs/hugging/hugged/hugged",
        "embrace/embraces/embracing/embraced/embraced",
        symmetric=True,
        implies=("holds",),
    ),
    "highfive": _act(
        "give/gives/giving/gave/given a high five to",
        "slap/slaps/slapping/slapped/slapped hands with",
        symmetric=True,
        implies=("hits",),
    ),
    "kiss": _act("kiss/kisses/kissing/kissed/kissed", symmetric=True, implies=("holds",)),
    "holding_hands": _act("hold/holds/holding/held/held hands with", symmetric=True, implies=("holds",)),
}

# Labels that a scene graph can decide. Positives of other triplets also use them, so their words give nothing away.
# ``interacts_with`` is listed twice: existing datasets depend on these sampling probabilities.
DEPICTED = ("on", "under", "inside_of", "at", "holds", "wears", "plays", "hits", "interacts_with", "interacts_with")

_COLOURS = ("Red", "Blue", "Green", "Yellow", "Orange", "Purple", "Pink", "Brown", "Black", "White", "Gray")
_MATERIALS = ("Wooden", "Plastic", "(made of)Leather", "(made of)Textile", "Metal")

# attribute -> attributes that contradict it
CONTRARIES: dict[str, tuple[str, ...]] = {
    **{a: tuple(b for b in group if b != a) for group in (_COLOURS, _MATERIALS) for a in group},
    "Transparent": ("Opaque", "Wooden", "Metal"),
    "Opaque": ("Transparent",),
}
# Poses that nobody takes at the same time. One can run and jump; whether somebody stands or walks is hard to see.
CONTRARIES |= {
    "Stand": ("Sit", "Lay", "Run", "Jump"),
    "Sit": ("Stand", "Lay", "Walk", "Run", "Jump"),
    "Lay": ("Stand", "Sit", "Walk", "Run", "Jump"),
    "Walk": ("Sit", "Lay", "Run", "Jump"),
    "Run": ("Stand", "Sit", "Lay", "Walk"),
    "Jump": ("Stand", "Sit", "Lay", "Walk"),
    "Smile": ("Cry", "Frown"),
    "Cry": ("Smile",),
    "Sing": ("Silent",),
    "Talk": ("Silent",),
    "Frown": ("Smile",),
    "Silent": ("Sing", "Talk"),
}
CONTRARIES |= {material: (*CONTRARIES[material], "Transparent") for material in ("Metal", "Wooden")}

# What labels rule out besides ``excludes``, from which the grammar draws: only authored captions claim it.
_ALSO_EXCLUDED = {"on": ("inside_of",), "at": ("under",)}


def converse(triplet: Triplet) -> Triplet | None:
    """The equivalent triplet with swapped roles (Desk|under|Cat for Cat|on|Desk), or None if there is none."""
    relation = RELATIONS.get(triplet.relation)
    if relation is None or not (relation.converse or relation.symmetric):
        return None
    return Triplet(triplet.object, relation.converse or triplet.relation, triplet.subject)


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
