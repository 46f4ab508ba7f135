"""The items of a prepared dataset in one file: TFDS decodes whole records, images included, so reading the captions of
100,000 images takes a processor about a minute. A process does that once, and later starts read the file.

It is an archive of NumPy, whose entries have a CRC-32: the columns of ``Items``, and strings as JSON.
"""

import contextlib
import fcntl
import io
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from etils import epath

from naturel_jax import storage
from naturel_jax.data.items.items import Captions, Items
from naturel_jax.data.items.ragged import Ragged

_LOG = logging.getLogger(__name__)

VERSION = 1
_STRINGS = ("name", "image_ids", "texts", "facts")
_CAPTIONS = {"starts": "G1", "text": "C", "pair": "C", "simple": "C"}  # columns of ``Captions``, and their letters


def kept(folder: Path, collect: Callable[[], Items]) -> Items:
    """The items in ``folder``, or, if there are none, what ``collect`` returns, which is then kept if the disk allows.

    Of the processes that share the disk, one collects while the others wait."""
    path = folder / f"items_{VERSION}.npz"
    from naturel_jax.devices import preemption  # it loads JAX, which naturel-mine --help does not need

    with preemption.interruptible(), contextlib.ExitStack() as stack:
        items = load(path)
        if items is None:
            with contextlib.suppress(OSError):  # a folder that may only be read
                folder.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context((folder / "items.lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, or the process ends
                items = load(path)
        if items is None:
            items = collect()
            with contextlib.suppress(OSError):
                save(items, path)
    return items


def save(items: Items, path: Path) -> None:
    """Writes the file, all of it or nothing."""
    arrays = {"groups": items.groups_N1, "attribute": items.attribute_G}
    for side in ("positives", "negatives"):
        captions: Captions = getattr(items, side)
        arrays |= {f"{side}_{name}": getattr(captions, f"{name}_{letter}") for name, letter in _CAPTIONS.items()}
        if captions.paraphrases is not None:
            arrays |= _of_ragged(f"{side}_paraphrases", captions.paraphrases)
    for name in ("shows", "asserts"):
        arrays |= _of_ragged(name, getattr(items, name))
    for name in _STRINGS:
        arrays[name] = np.frombuffer(json.dumps(getattr(items, name)).encode(), np.uint8)
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # its last parameter is a bool
    storage.write(epath.Path(path), content.getvalue())


def _of_ragged(name: str, rows: Ragged) -> dict[str, np.ndarray]:
    return {f"{name}_starts": rows.starts, f"{name}_values": rows.values}


def load(path: Path) -> Items | None:
    """What ``save`` wrote; None if there is no such file, or if it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
        name, image_ids, texts, facts = (json.loads(arrays[name].tobytes()) for name in _STRINGS)
        return Items(
            name=name,
            image_ids=image_ids,
            texts=texts,
            facts=facts,
            groups_N1=arrays["groups"],
            attribute_G=arrays["attribute"],
            positives=_captions(arrays, "positives"),
            negatives=_captions(arrays, "negatives"),
            shows=_ragged(arrays, "shows"),
            asserts=_ragged(arrays, "asserts"),
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # NumPy and zipfile raise nothing narrower for a damaged archive
        _LOG.warning("%s cannot be read (%s); the dataset is read instead", path, error)
        return None


def _captions(arrays: Mapping[str, np.ndarray], side: str) -> Captions:
    paraphrases = _ragged(arrays, f"{side}_paraphrases") if f"{side}_paraphrases_starts" in arrays else None
    starts, text, pair, simple = (arrays[f"{side}_{name}"] for name in _CAPTIONS)
    return Captions(starts, text, pair, simple, paraphrases)


def _ragged(arrays: Mapping[str, np.ndarray], name: str) -> Ragged:
    return Ragged(arrays[f"{name}_starts"], arrays[f"{name}_values"])
