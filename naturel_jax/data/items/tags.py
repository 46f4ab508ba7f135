"""Nouns and adjectives of captions, which recipes swap or exchange: those of a table are found beforehand by spaCy,
and those of NatuRel's captions by the facts that they assert.

    python -m naturel_jax.data.check csv:my.csv --tags en_core_web_sm

writes them next to the table's index, in ``tags/``:

    meta.json       version, and what made them: the versions of spaCy and of the model
    places.*        for each text, (first character, end, kind) of each noun or adjective
    swappable.bool  whether two of one kind differ
"""

import functools
import itertools
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tqdm

from naturel_jax.data.items import columns
from naturel_jax.data.items.items import Tags
from naturel_jax.data.items.ragged import Ragged
from naturel_jax.storage import once
from naturel_jax.storage.locks import locked
from tfds_naturel.captions import lexicon, word_order
from tfds_naturel.common import extras
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Facts, facts_of

if TYPE_CHECKING:
    import spacy.language
    import spacy.tokens

VERSION = 1
_FOLDER = "tags"
_BATCH = 1000  # captions that spaCy tags together
_LONGEST = 1 << 16  # characters of a caption within which places are recorded
_MOST_PLACES = 200  # of a caption whose pairs are compared, from its start; no tower reads as many words
_KINDS = dict.fromkeys(word_order.NOUNS, 0) | dict.fromkeys(word_order.ADJECTIVES, 1)  # Penn Treebank tag -> kind
_WORD = re.compile(r"[\w'-]+")

Place = tuple[int, int, int]


def write(folder: Path, model: str, workers: int = 1) -> str:
    """Tags the texts of the index in ``folder`` with a spaCy model (a name or a folder), in ``workers`` processes;
    returns what made them. Raises UserError if there is no such model, or it has no tagger."""
    pipeline, made_by = _load(model)
    texts = columns.find_strings(folder, "texts")
    docs = pipeline.pipe(tqdm.tqdm(texts, "tagging", unit="caption"), batch_size=_BATCH, n_process=workers)
    lengths, values, swappable = array("i"), array("H"), array("b")
    for doc in docs:
        found = list(places(doc))
        lengths.append(3 * len(found))
        values.extend(itertools.chain.from_iterable(found))
        swappable.append(bool(pairs(doc.text, found)))
    if not values:
        raise UserError(f"--tags {model}: no noun or adjective in {len(texts):,} captions; expected an English tagger")
    out = folder / _FOLDER
    out.mkdir(exist_ok=True)
    with locked(out / once.LOCK):
        (out / once.META).unlink(missing_ok=True)
        columns.write_starts(out, "places_starts", [np.array(lengths)])
        columns.write(out, "places_values", [np.array(values)])
        columns.write(out, "swappable", [np.array(swappable, bool)])
        once.write_meta(out, {"version": VERSION, "made_by": made_by, "xxh3": once.checksums(out)})
    return made_by


def read(folder: Path) -> Tags | None:
    """The tags of the texts of the index in ``folder``, if there are any. Raises UserError for another version."""
    out = folder / _FOLDER
    try:
        meta = once.read_meta(out)
    except FileNotFoundError:
        return None
    if meta.get("version") != VERSION:
        raise UserError(
            f"{out / once.META} has version {meta.get('version')!r}; this program reads {VERSION}: tag the source again"
        )
    if wrong := once.damaged(out, meta["xxh3"]):
        raise UserError(f"{out / wrong[0]} is damaged: it does not have its checksum; tag the source again")
    found = (columns.find(out, name) for name in ("places_starts", "places_values"))
    return Tags(Ragged(*found), columns.find(out, "swappable"), meta["made_by"])


def _load(model: str) -> tuple["spacy.language.Language", str]:
    library = extras.library("spacy", "order")
    try:
        pipeline = library.load(model, exclude=["parser", "ner", "lemmatizer"])
    except OSError as error:
        raise UserError(
            f"--tags {model}: spaCy has no model of this name: run `python -m spacy download {model}`, or give a folder"
        ) from error
    meta = pipeline.meta
    return pipeline, f"spaCy {library.__version__}, {meta['lang']}_{meta['name']} {meta['version']}"


def places(doc: "spacy.tokens.Doc") -> Iterator[Place]:
    """Each noun or adjective; adjacent ones of one kind are one ("fire truck")."""
    tagged = ((_KINDS.get(token.tag_), token) for token in doc)
    for kind, run in itertools.groupby(tagged, key=lambda pair: pair[0]):
        tokens = [token for _, token in run]
        stop = tokens[-1].idx + len(tokens[-1].text)
        if kind is not None and stop < _LONGEST:
            yield tokens[0].idx, stop, kind


def pairs(text: str, found: Iterable[Place]) -> list[tuple[Place, Place]]:
    """The places of one kind whose words differ, the earlier one first; of a long caption, those at its start."""
    return [
        (a, b)
        for a, b in itertools.combinations(itertools.islice(found, _MOST_PLACES), 2)
        if a[2] == b[2] and text[a[0] : a[1]].lower() != text[b[0] : b[1]].lower()
    ]


def swap(text: str, found: Iterable[Place], rng: np.random.Generator) -> str | None:
    """``text`` with two nouns or two adjectives swapped; None if it has no two that differ."""
    options = pairs(text, found)
    if not options:
        return None
    (a, a_stop, _), (b, b_stop, _) = options[rng.integers(len(options))]
    return text[:a] + text[b:b_stop] + text[a_stop:b] + text[a:a_stop] + text[b_stop:]


@functools.lru_cache(maxsize=1 << 16)
def named(text: str, facts: tuple[str, ...]) -> list[Place]:
    """Where a caption names the classes (kind 0) and attributes (kind 1) of these facts of NatuRel. Facts of other
    datasets name nothing."""
    kinds: dict[str, int] = {}
    for triplet in itertools.chain.from_iterable(map(_triplets, facts)):
        classes = {triplet.subject} if triplet.relation == "is" else {triplet.subject, triplet.object}
        kinds |= {noun.text.lower(): 0 for label in classes for noun in lexicon.nouns(label)}
        if triplet.relation == "is":
            before, after, _ = lexicon.attribute(triplet.object)
            kinds |= dict.fromkeys(filter(None, (before, *after, *lexicon.pose(triplet.object))), 1)
    if not kinds:
        return []
    pattern = "|".join(map(re.escape, sorted(kinds, key=len, reverse=True)))
    found = re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE)
    return [(match.start(), match.end(), kinds[match[0].lower()]) for match in found]


def _triplets(fact: str) -> Facts:
    try:
        return facts_of(fact)
    except ValueError:
        return ()


def exchange(captions: tuple[str, str], found: Sequence[Sequence[Place]], rng: np.random.Generator) -> tuple[str, str]:
    """Two captions in which a noun of one has changed places with a noun of the other, or an adjective, that only one
    of them has; other words that only one has if there are none, as in CLIC's code. Captions of the same words stay as
    they are."""
    tagged = [
        [(*place, caption[place[0] : place[1]].lower()) for place in places]
        for caption, places in zip(captions, found, strict=True)
    ]
    words = [{place[2:] for place in side} for side in tagged]
    options = []
    for kind in (0, 1):
        own = [
            [place for place in side if place[2] == kind and place[2:] not in others]
            for side, others in zip(tagged, words[::-1], strict=True)
        ]
        if all(own):
            options.append(own)
    if not options:
        every = [[(match.start(), match.end(), 0) for match in _WORD.finditer(caption)] for caption in captions]
        return captions if found == every else exchange(captions, every, rng)
    chosen = options[rng.integers(len(options))]
    (a, a_stop, *_), (b, b_stop, *_) = (places[rng.integers(len(places))] for places in chosen)
    first, second = captions
    return first[:a] + second[b:b_stop] + first[a_stop:], second[:b] + first[a:a_stop] + second[b_stop:]
