"""Reads the places in a pair of captions: where each says that the subject is, and what the negative makes of them.

Words are those of ``parse``: lowercased, without articles, with marks for the subject and the object.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from tfds_naturel.common.schema import Triplet

_LABELS = {
    **dict.fromkeys(("on", "atop", "upon", "onto", "above", "over"), "on"),
    **dict.fromkeys(("under", "beneath", "underneath", "below"), "under"),
    **dict.fromkeys(("beside", "behind", "alongside", "next", "side"), "beside"),
    **dict.fromkeys(("in", "inside", "within"), "inside_of"),
    "at": "at",
    "outside": "outside_of",
}
_IDIOMATIC = frozenset({"in", "at", "over", "above"})  # places only before a noun or a pronoun ("in vain", "over here")
_CONVERSE = {"on": "under", "under": "on", "inside_of": "contain"}
# relation -> places at which the subject then is
_TRUE = {"on": {"on"}, "under": {"under"}, "inside_of": {"inside_of"}, "at": {"at", "beside"}}
SPATIAL = frozenset(_TRUE)
# A sentence that names two places and denies one of them, or calls it unreal, has one of these words.
_DENIERS = frozenset(
    re.findall(
        r"\S+",
        "not no none nobody without hardly rather instead opposed than far if would might may could needn't wouldn't "
        "couldn't can't cannot isn't don't doesn't won't imagine suppose where yet forget missed mistaken "
        "disappointed correct stop whatever",
    )
)


class _Place(NamedTuple):
    """``label`` is where the subject is; if not ``certain``, no noun follows and it may be where the object is."""

    word: str
    label: str
    certain: bool


def read(
    pair: tuple[Sequence[str], Sequence[str]], triplet: Triplet, marks: tuple[str, str]
) -> tuple[str, Triplet | None] | None:
    """(operation, what the negative claims), or None if the places that the captions name do not tell.

    ``pair`` has the words of the positive and of the negative. The places that they name

    - differ once: the negative claims the new place, or denies the true one ("nobody is under / on the desk");
    - change over: one is claimed and the other denied ("on the desk, not under it"), so the false one is claimed;
    - are the same: the negative denies the true place or affirms a false one ("it is wrong / right that ...").

    Raises ValueError if both captions name the same place in other words, or two places and deny neither.
    """
    true = _TRUE[triplet.relation]
    old, new = (_places(words, marks) for words in pair)
    if not old or len(old) != len(new):
        return None
    labels = list(zip(*_upright(old, new, true), strict=True))
    changes = [(was, now) for was, now in labels if was != now]
    if len(changes) > 1 and not _DENIERS & set(pair[1]):
        raise ValueError("both captions name the same places and deny none of them")
    reworded = [place.word for place in old] != [place.word for place in new]
    if set().union(*changes) <= true and (changes or reworded):
        raise ValueError("the negative names the place of its positive in other words")
    false = {now for _, now in changes or labels} - true
    if len(changes) > 2 or len(false) > 1:
        return None
    return ("relation", Triplet(triplet.subject, false.pop(), triplet.object)) if false else ("denial", None)


def _places(words: Sequence[str], marks: tuple[str, str]) -> list[_Place]:
    found = []
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else ""
        if word not in _LABELS or (word in _IDIOMATIC and following not in (*marks, "it", "is", "")):
            continue
        landmark = next((word for word in words[i + 1 : i + 5] if word in (*marks, "it")), "it")
        label = _LABELS[word]
        found.append(_Place(word, _CONVERSE.get(label, label) if landmark == marks[0] else label, landmark != "it"))
    return found


def _upright(old: list[_Place], new: list[_Place], true: set[str]) -> tuple[list[str], list[str]]:
    """The labels in both captions. "It has the desk under it" places the desk, so all are exchanged for converses."""
    labels = [place.label for place in old], [place.label for place in new]
    turned = {_CONVERSE.get(label, label) for label in labels[0]}
    if any(place.certain for place in (*old, *new)) or true & set(labels[0]) or not true & turned:
        return labels
    return [_CONVERSE.get(x, x) for x in labels[0]], [_CONVERSE.get(x, x) for x in labels[1]]
