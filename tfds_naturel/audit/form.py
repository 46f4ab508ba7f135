"""The page on which people answer questions about captions: one HTML file, usable without a server or network.

A browser keeps answers under a name, apart for each name and each set of questions, and exports them as CSV.
"""

import hashlib
import html
import importlib.resources
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfds_naturel.common import pages
from tfds_naturel.common.errors import UserError

_MOST_LETTERS = 60  # of a name


class Kind(NamedTuple):
    """What is asked, and the answers: (value in the file, title of the button, key)."""

    ask: str
    answers: tuple[tuple[str, str, str], ...]


class Question(NamedTuple):
    """A question of a kind about one or two texts. ``row``: what the file of answers says about it."""

    kind: str
    texts: tuple[str, ...]
    row: dict[str, Any]
    tags: str = ""
    note: str = ""


class Screen(NamedTuple):
    """Questions that are shown together, below the photos of the triplet that is their ``title``."""

    title: str
    questions: tuple[Question, ...]


class Form(NamedTuple):
    """Everything but the questions. ``file``: its answers are exported as ``<file>-<name>.csv`` with ``columns``, where
    ``key`` names a question, and ``answer`` has the answer; a reason may be given for those in ``explained``.
    ``filters``: fields of the rows to choose questions by."""

    title: str
    guidelines: tuple[tuple[str, str], ...]
    kinds: Mapping[str, Kind]
    file: str
    key: tuple[str, ...]
    answer: str
    columns: tuple[str, ...]
    filters: tuple[str, ...]
    explained: tuple[str, ...] = ()


def page(
    form: Form,
    screens: Sequence[Screen],
    people: Mapping[str, Sequence[int]] | None = None,
    photos: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> str:
    """The page's HTML. ``people``: the screens of each person (``assign``), or all for anybody. ``photos``: by title of
    a screen, each with ``image_id``, ``address`` and ``boxes`` (label, ``subject`` or ``object``, ``Box``)."""
    asked = [(q.kind, q.texts, [str(q.row[name]) for name in form.key]) for s in screens for q in s.questions]
    digest = hashlib.sha256(repr((form.file, asked)).encode()).hexdigest()[:16]
    shown = [{"title": s.title, "questions": [question._asdict() for question in s.questions]} for s in screens]
    kinds = {name: kind._asdict() for name, kind in form.kinds.items()}
    data = form._asdict() | {"kinds": kinds, "screens": shown, "people": people, "digest": digest}
    template = importlib.resources.files("tfds_naturel.audit") / "form.html"
    return pages.fill(
        template,
        title=html.escape(form.title),
        form=pages.script_json(data),
        photos=pages.script_json(photos or {}),
    )


def names(text: str) -> list[str]:
    """The names in a list with commas. Raises UserError for one that is empty, long, repeated or not printable."""
    found = [" ".join(unicodedata.normalize("NFC", name).split()) for name in text.split(",")]
    if bad := [name for name in found if not name.isprintable() or not 0 < len(name) <= _MOST_LETTERS]:
        raise UserError(f"name {bad[0][:80]!r}: expected 1 to {_MOST_LETTERS} printable characters, as in anna,ben")
    if twice := [name for name in found if found.count(name) > 1]:
        raise UserError(f"name {twice[0]!r} is repeated: give people different names")
    return found


def assign(number: int, people: Sequence[str], overlap: int, seed: int) -> dict[str, list[int]]:
    """Person -> the screens, of ``number``, that they get, in order. Each screen goes to ``overlap`` people, those with
    the fewest so far, ties at random, so that everybody shares screens with everybody.

    Raises UserError unless ``overlap`` is from 1 to the number of people.
    """
    if not 1 <= overlap <= len(people):
        raise UserError(f"overlap {overlap}: expected a number from 1 to {len(people)}, the number of people")
    rng = np.random.default_rng(seed)
    given: dict[str, list[int]] = {name: [] for name in people}
    for screen in rng.permutation(number).tolist():
        fewest = sorted(
            (len(given[name]), tie, name) for name, tie in zip(people, rng.random(len(people)), strict=True)
        )
        for _, _, name in fewest[:overlap]:
            given[name].append(screen)
    return {name: sorted(screens) for name, screens in given.items()}


def sample(relations: Sequence[str], number: int, rng: np.random.Generator) -> list[int]:
    """``number`` of the items with these relations, in the proportions of the relations and ordered by them."""
    ordered = sorted(rng.permutation(len(relations)).tolist(), key=lambda n: relations[n])
    places = (np.arange(number) + rng.random()) * len(ordered) / max(number, 1)
    return [ordered[int(place)] for place in places]
