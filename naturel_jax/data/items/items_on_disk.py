"""Items as columns on disk: those of a table of records, written by ``index_writer.py``, and those of a prepared
dataset, written here.

TFDS decodes whole records, images included, so reading the captions of 100,000 images takes a processor about a minute.
This is done once; later processes map the columns into memory.

Shape letters: N images, G caption groups; a trailing 1 means one extra entry.
"""

import contextlib
import functools
import hashlib
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from naturel_jax.data.items import columns
from naturel_jax.data.items.items import Captions, Items
from naturel_jax.data.items.ragged import Ragged
from naturel_jax.storage import once
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)

_CAPTIONS = {"starts": "G1", "text": "C", "pair": "C", "simple": "C"}  # columns of ``Captions``, and their letters


def open_items(folder: Path, name: str) -> Items:
    """The items of dataset ``name`` whose columns are in ``folder``, all trained on and without tags."""

    def ragged(name: str) -> Ragged:
        return Ragged(columns.find(folder, f"{name}_starts"), columns.find(folder, f"{name}_values"))

    def captions(side: str) -> Captions:
        starts, text, pair, simple = (columns.find(folder, f"{side}_{name}") for name in _CAPTIONS)
        has_paraphrases = any(folder.glob(f"{side}_paraphrases_*"))
        return Captions(starts, text, pair, simple, ragged(f"{side}_paraphrases") if has_paraphrases else None)

    return Items(
        name=name,
        image_ids=columns.find_strings(folder, "names"),
        texts=columns.find_strings(folder, "texts"),
        facts=columns.find_strings(folder, "facts"),
        groups_N1=columns.find(folder, "groups"),
        attribute_G=columns.find(folder, "attribute"),
        positives=captions("positives"),
        negatives=captions("negatives"),
        shows=ragged("shows"),
        asserts=ragged("asserts"),
    )


def load_or_collect(folder: Path, name: str, collect: Callable[[], Items]) -> Items:
    """The items of dataset ``name`` in ``folder``; if they are missing or damaged, those that ``collect`` returns,
    written there if the disk allows."""

    def make() -> Items:
        items = collect()
        with contextlib.suppress(OSError):
            _write(items, folder)
        return _load(folder, name) or items

    return once.load_or_make(folder, functools.partial(_load, folder, name), make)


def digest(items: Items, folder: Path) -> str:
    """Identifies the ``items`` that ``load_or_collect`` returned for ``folder``, whichever disk has them: from the
    checksums that were compared there, or if nothing is there, from those that the files would have."""
    try:
        checksums = once.read_meta(folder)["xxh3"]
    except (OSError, UserError):
        with tempfile.TemporaryDirectory() as elsewhere:
            _write(items, Path(elsewhere))
            checksums = once.checksums(Path(elsewhere))
    return hashlib.blake2b(json.dumps(checksums, sort_keys=True).encode(), digest_size=16).hexdigest()


def _load(folder: Path, name: str) -> Items | None:
    """What ``_write`` wrote; None if there is nothing, or if it is damaged."""
    try:
        if once.read_meta(folder) == _meta(folder, name):
            return open_items(folder, name)
        problem = "other contents than were written"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UserError) as error:
        problem = str(error)
    _LOG.warning("%s: damaged items of %s (%s); the dataset is read instead", folder, name, problem)
    return None


def _meta(folder: Path, name: str) -> dict[str, object]:
    return {"source": name, "xxh3": once.checksums(folder)}


def _write(items: Items, folder: Path) -> None:
    for name, strings in (("names", items.image_ids), ("texts", items.texts), ("facts", items.facts)):
        columns.write_strings(folder, name, strings)
    arrays = {"groups": items.groups_N1, "attribute": items.attribute_G}
    rows = {"shows": items.shows, "asserts": items.asserts}
    for side, captions in (("positives", items.positives), ("negatives", items.negatives)):
        arrays |= {f"{side}_{name}": getattr(captions, f"{name}_{letter}") for name, letter in _CAPTIONS.items()}
        if captions.paraphrases is not None:
            rows[f"{side}_paraphrases"] = captions.paraphrases
    for name, ragged in rows.items():
        arrays |= {f"{name}_starts": ragged.starts, f"{name}_values": ragged.values}
    for name, array in arrays.items():
        columns.write(folder, name, [array])
    once.write_meta(folder, _meta(folder, items.name))
