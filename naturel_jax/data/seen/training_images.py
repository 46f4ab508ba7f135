"""Finds what identifies the images of training data (``trained_on.py``): reads them once, and keeps the result."""

import concurrent.futures
import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from etils import epath

from naturel_jax.data.items.decoded_writer import sample
from naturel_jax.data.items.items import Source
from naturel_jax.data.seen import identity, trained_on
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.devices import preemption
from naturel_jax.storage import once
from tfds_naturel.common.progress import Progress

_LOG = logging.getLogger(__name__)

MOST = 1 << 18  # images of a source that a run reads before it starts; only the command check.py reads more
_BLOCK = 4096  # images between checks for a stop request


def of_source(source: Source) -> TrainedOn:
    """The images of ``source`` that are trained on.

    Their bytes are read once, if they are at most ``MOST``, and the result is kept in the source's cache; they are read
    again if some have ``changed``. May raise Stopped.
    """
    items, origin = source.items, source.origin
    folder = epath.Path(origin.cache) / trained_on.FOLDER

    def make() -> TrainedOn:
        seen = list(_seen(source)) if len(items) <= MOST else []
        made = TrainedOn.of(names(items.image_ids, items.left_out), seen, len(items))
        with contextlib.suppress(OSError):  # a read-only folder
            if origin.cache:
                made.save(folder)
        return made

    def load() -> TrainedOn | None:
        found = trained_on.load(folder)
        if found and (name := changed(source, found)):
            _LOG.warning("%s: the image %s is another one than before; all are read again", items.name, name)
            return None
        return found

    known = once.load_or_make(Path(folder), load, make) if origin.cache else make()
    if not known.read and len(items) > MOST:
        _LOG.warning(
            "%s: %s images are too many to read before training, so copies of them under other names are not left out "
            "of scores; python -m naturel_jax.data.check reads them all once",
            items.name,
            f"{len(items):,}",
        )
    return TrainedOn.union([known, trained_on.from_used(origin.used)])


def changed(source: Source, known: TrainedOn) -> str:
    """The name of an image of ``source`` with other bytes than ``known`` has, among a few, evenly spread; "" if there
    is none, or if ``known`` has no bytes. Images that cannot be read do not count: training reports them."""
    for n in sample(source.items) if known.read else ():
        with contextlib.suppress(ValueError, OSError):
            if not known.has([identity.content(source.read_image(n))])[0]:
                return source.items.image_ids[n]
    return ""


def names(image_ids: Sequence[str], left_out: np.ndarray) -> Iterator[str]:
    """The name of each image but those ``left_out`` (numbers), "" if it has none."""
    kept = np.ones(len(image_ids), bool)
    kept[left_out] = False
    return map(identity.of_name, itertools.compress(image_ids, kept))


def _seen(source: Source) -> Iterator[identity.Seen]:
    """``Seen`` of each image that is trained on, except for unreadable ones, which training reports."""
    numbers = np.delete(np.arange(len(source.items.image_ids)), source.items.left_out).tolist()
    if len(numbers) > _BLOCK:
        _LOG.info(
            "%s: reading %s images, to leave copies of them out of scores", source.items.name, f"{len(numbers):,}"
        )
    looks = look_at(numbers, source.read_image, source.origin.photos)
    return iter(Progress(looks, "reading training images", len(numbers), unit="image", disable=len(numbers) <= _BLOCK))


def look_at(numbers: Iterable[int], read: Callable[[int], bytes], perceptual: bool) -> Iterator[identity.Seen]:
    """``identity.look`` at each image, read in threads; those that cannot be read are left out."""

    def look(n: int) -> identity.Seen | None:
        try:
            return identity.look(read(n), perceptual)
        except (ValueError, OSError):
            return None

    remaining = iter(numbers)
    with concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        while block := list(itertools.islice(remaining, _BLOCK)):
            preemption.check()
            yield from filter(None, pool.map(look, block))
