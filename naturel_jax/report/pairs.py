"""One benchmark's items as two models score them, from the results of an evaluation."""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

from naturel_jax.evaluators.results import OUTCOME
from tfds_naturel.captions.relations import RELATIONS
from tfds_naturel.common.errors import UserError

# An item is grouped by the first of these that it has.
GROUP_TAGS = ("relation", "attributes", "subset", "collapsed_tag", "phenomenon", "source")


@dataclasses.dataclass(frozen=True)
class Paired:
    """One item under both models. ``a`` and ``b``: whether each is right; cosines are row-major [images, captions]."""

    id: str
    images: tuple[str, ...]
    boxes: tuple[tuple[int, ...] | None, ...]
    captions: tuple[str, ...]
    a: bool
    b: bool
    cosines_a: tuple[float, ...]
    cosines_b: tuple[float, ...]
    group: str
    pattern: str


# People and animals, as the captions of NatuRel and VG-Relation call them; plurals in -s and -es count too.
_ANIMATE = (
    "adult | animal | baby | batter | bear | bee | bird | boy | bull | butterfly | calf | cat | catcher | chicken | "
    "child | cow | deer | dog | dolphin | duck | elephant | fish | foal | gentleman | giraffe | girl | goat | goose | "
    "guy | hamster | hippo | horse | kid | kitten | lady | lamb | lion | man | monkey | mother | owl | parrot | "
    "people | person | pig | pigeon | pitcher | player | pony | puppy | rabbit | rider | seagull | sheep | "
    "skateboarder | skier | snake | snowboarder | spectator | squirrel | surfer | swan | tiger | toddler | umpire | "
    "woman | worker | zebra | men | women | children | geese | gentlemen"
)


@functools.cache
def _phrases() -> re.Pattern[str]:
    words = {w for r in RELATIONS.values() for entry in (*r.words, *r.back) for w in _forms(entry)}
    longest_first = sorted(words, key=lambda w: (-len(w), w))
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)


def _forms(entry: str) -> list[str]:
    """``hold/holds/holding/held/held`` -> its forms; a preposition -> itself."""
    return [form for form in entry.split("/") if form]


def pattern(caption: str, group: str) -> str:
    """The roles in a caption, such as ``animate atop thing``: whether a person or animal (``animate``) or a ``thing``
    stands before and after its relation phrase; ``other`` for a caption without such a phrase.

    A phrase that is the name of the item's ``group`` is written ``...``, so that on VG-Relation, whose groups are
    phrases, patterns are roles only: ``thing ... animate``.
    """
    named = re.search(rf"\b{re.escape(group)}\b", caption, re.IGNORECASE) if group else None
    phrase = named or max(_phrases().finditer(caption), key=lambda match: len(match[0]), default=None)
    if phrase is None:
        return "other"
    before, after = _animate_or_thing(caption[: phrase.start()]), _animate_or_thing(caption[phrase.end() :])
    return " ".join(filter(None, (before, "..." if named else phrase[0].lower(), after)))


def _animate_or_thing(text: str) -> str:
    """Whether ``text`` mentions a person or animal, or only things; '' if it says nothing."""
    words = re.findall(r"[a-z]+", text.lower())
    animate = _animate()
    if any(not animate.isdisjoint((word, word.removesuffix("s"), word.removesuffix("es"))) for word in words):
        return "animate"
    return "thing" if words else ""


@functools.cache
def _animate() -> frozenset[str]:
    return frozenset(_ANIMATE.split(" | "))


def pair_up(rows_a: Sequence[dict[str, Any]], rows_b: Sequence[dict[str, Any]], outcome: str) -> list[Paired]:
    """The items that both models were scored on. Raises UserError for an outcome that the benchmark does not have."""
    column, others = OUTCOME + outcome, {row["id"]: row for row in rows_b}
    known = [name.removeprefix(OUTCOME) for name in (rows_a[0] if rows_a else {}) if name.startswith(OUTCOME)]
    if outcome not in known:
        raise UserError(
            f"--outcome {outcome!r} is not an outcome of this benchmark; expected one of: {', '.join(known)}"
        )
    pairs = []
    for row in rows_a:
        other = others.get(row["id"])
        if other is None or any(r[column] is None or math.isnan(r[column]) for r in (row, other)):
            continue
        tags, captions = row["tags"], tuple(row["captions"] or ())
        group = next((str(tags[tag]) for tag in GROUP_TAGS if tags.get(tag)), "all")
        roles = pattern(captions[0], str(tags.get("relation") or "")) if captions else "other"
        pairs.append(
            Paired(
                row["id"],
                tuple(row["images"]),
                tuple(tuple(box) if box else None for box in row["boxes"]),
                captions,
                row[column] == 1,
                other[column] == 1,
                tuple(row["cosines"] or ()),
                tuple(other["cosines"] or ()),
                group,
                roles,
            )
        )
    return pairs
