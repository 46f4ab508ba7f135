"""Nouns and adjectives of the captions of a table, found beforehand by spaCy: what the recipes ``swaps`` and
``swaps_or_shuffles`` swap.

    python -m naturel_jax.data.check csv:my.csv --tags en_core_web_sm

writes them next to the table's index, in ``tags/``:

    meta.json       version, and what made them: the versions of spaCy and of the model
    places.*        for each text, (first character, end, kind) of each noun or adjective
    swappable.bool  whether two of one kind differ
"""

import itertools
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tqdm

from naturel_jax.data.items import columns
from naturel_jax.data.items.items import Tags
from naturel_jax.data.items.ragged import Ragged
from naturel_jax.storage import once
from naturel_jax.storage.locks import locked
from tfds_naturel.captions import word_order
from tfds_naturel.common import extras
from tfds_naturel.common.errors import UserError

if TYPE_CHECKING:
    import spacy.language
    import spacy.tokens

VERSION = 1
_FOLDER = "tags"
_BATCH = 1000  # captions that spaCy tags together
_LONGEST = 1 << 16  # characters of a caption within which places are recorded
_KINDS = dict.fromkeys(word_order.NOUNS, 0) | dict.fromkeys(word_order.ADJECTIVES, 1)  # Penn Treebank tag -> kind

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
    if wrong := once.damaged(out, meta.get("xxh3", {})):
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
    """The places of one kind whose words differ, the earlier one first."""
    return [
        (a, b)
        for a, b in itertools.combinations(found, 2)
        if a[2] == b[2] and text[a[0] : a[1]].lower() != text[b[0] : b[1]].lower()
    ]


def swap(text: str, found: Iterable[Place], rng: np.random.Generator) -> str | None:
    """``text`` with two nouns or two adjectives swapped; None if it has no two that differ."""
    options = pairs(text, found)
    if not options:
        return None
    (a, a_stop, _), (b, b_stop, _) = options[rng.integers(len(options))]
    return text[:a] + text[b:b_stop] + text[a_stop:b] + text[a:a_stop] + text[b_stop:]
