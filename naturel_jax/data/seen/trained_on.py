"""The images that a run trains on, which its scores leave out: their names and hashes (``identity.py``) in sorted
arrays of 64-bit numbers.

They are kept in the run's folder, ``<workdir>/trained_on/``, and mapped into memory where they are used:

    trained_on.json      version, number of images, and of those whose bytes were read; checksum of the arrays
    exact.uint64         names, and hashes of the bytes
    perceptual.uint64    perceptual hashes

A checkpoint has the version and the checksum.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from etils import epath

from naturel_jax import storage
from naturel_jax.data.items import columns
from naturel_jax.data.seen import identity
from naturel_jax.storage.object_stores import Location, in_store
from tfds_naturel.common.errors import UserError

VERSION = 1
FOLDER = "trained_on"
NEAR = 3  # bits in which the perceptual hashes of near duplicates may differ, as in ``tfds_naturel.open_images.splits``

_EMPTY = np.empty(0, np.uint64)
_BANDS = tuple(np.uint64(shift) for shift in (0, 16, 32, 48))  # NEAR + 1: near hashes agree in one of them
_BAND = np.uint64(48)  # right shift that leaves the highest band
_WORD = np.uint64(64)
_ARRAYS = ("exact", "perceptual")


def _sorted(numbers: Iterable[int] | np.ndarray) -> np.ndarray:
    return np.unique(np.fromiter(numbers, np.uint64) if not isinstance(numbers, np.ndarray) else numbers)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedOn:
    """``exact`` and ``perceptual``: distinct numbers in ascending order, uint64. ``images``: number of images that they
    are about; ``read``: how many of these had their bytes read; without, copies under other names go unnoticed."""

    exact: np.ndarray = dataclasses.field(default_factory=_EMPTY.copy)
    perceptual: np.ndarray = dataclasses.field(default_factory=_EMPTY.copy)
    images: int = 0
    read: int = 0

    @classmethod
    def of(cls, names: Iterable[str], seen: Sequence[identity.Seen] = (), images: int = 0) -> "TrainedOn":
        """The record of images with these names ("": none), and what was seen of those that were read."""
        numbers = [identity.number(name) for name in names if name]
        perceptual = (image.perceptual for image in seen if image.perceptual is not None)
        return cls(_sorted(numbers + [image.content for image in seen]), _sorted(perceptual), images, len(seen))

    @classmethod
    def union(cls, parts: Sequence["TrainedOn"]) -> "TrainedOn":
        """All of the images of ``parts``."""
        arrays = [[getattr(part, name) for part in parts] for name in _ARRAYS]
        exact, perceptual = (_sorted(np.concatenate([_EMPTY, *each])) for each in arrays)
        return cls(exact, perceptual, sum(part.images for part in parts), sum(part.read for part in parts))

    def __bool__(self) -> bool:
        return len(self.exact) > 0

    def has(self, numbers: Sequence[int]) -> np.ndarray:
        """Mask of the ``numbers`` that are among ``exact``, bool [N]."""
        wanted = np.array(numbers, np.uint64)
        if not len(self.exact):
            return np.zeros(len(wanted), bool)
        return self.exact[np.minimum(np.searchsorted(self.exact, wanted), len(self.exact) - 1)] == wanted

    def has_near(self, hashes: Sequence[int]) -> np.ndarray:
        """Mask of the perceptual ``hashes`` that differ from one of ``perceptual`` in at most ``NEAR`` bits, bool [N].

        Exact without comparing all pairs: see ``splits.near_duplicates``.
        """
        wanted = np.array(hashes, np.uint64)
        found = np.zeros(len(wanted), bool)
        if not len(wanted):
            return found
        for shift in _BANDS:
            rotated = np.sort(_rotated(self.perceptual, shift))
            queries = _rotated(wanted, shift)
            band = queries >> _BAND
            first = np.searchsorted(rotated, band << _BAND)
            last = np.searchsorted(rotated, (band << _BAND) | ~(~np.uint64(0) << _BAND), side="right")
            for n in np.flatnonzero(~found & (first < last)):
                found[n] = (np.bitwise_count(rotated[first[n] : last[n]] ^ queries[n]) <= NEAR).any()
        return found

    def checksum(self) -> str:
        """Checksum of the arrays."""
        checksum = xxhash.xxh3_64()
        for name in _ARRAYS:
            checksum.update(np.ascontiguousarray(getattr(self, name), "<u8").data)
        return checksum.hexdigest()

    def meta(self) -> dict[str, Any]:
        """What a checkpoint records."""
        return {"version": VERSION, "xxh3": self.checksum()}

    def save(self, folder: epath.Path) -> None:
        """Writes the files in ``folder``; the description last."""
        if not in_store(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            storage.write(folder / f"{name}.uint64", np.asarray(getattr(self, name), "<u8").tobytes())
        fields = {**self.meta(), "images": self.images, "read": self.read}
        storage.write_json(folder / f"{FOLDER}.json", fields)


def _rotated(hashes: np.ndarray, shift: np.uint64) -> np.ndarray:
    """The hashes with their bits rotated left by ``shift``."""
    return (hashes << shift) | (hashes >> (_WORD - shift)) if shift else hashes


def load(folder: epath.Path) -> TrainedOn | None:
    """What ``save`` wrote to ``folder``; None if there is nothing. Raises UserError for damaged files, and for those of
    a later version."""
    path = folder / f"{FOLDER}.json"
    if path.name not in storage.names(folder):
        return None
    fields = storage.read_json(path)
    try:
        version, images, read, checksum = (fields[name] for name in ("version", "images", "read", "xxh3"))
        if version > VERSION:
            raise UserError(
                f"{path} has version {version}; this naturel_jax reads up to {VERSION}: install a newer one"
            )
        if not (isinstance(images, int) and isinstance(read, int)):
            raise TypeError(f"images are {images!r:.20}, read {read!r:.20}")
        exact, perceptual = (_array(folder / f"{name}.uint64") for name in _ARRAYS)
        result = TrainedOn(exact, perceptual, images, read)
        if result.checksum() != checksum:
            raise ValueError("the arrays do not have the checksum noted here")
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not what was written ({error}); copy the folder again from where the run was trained, or remove "
            "it: the run makes it again when it continues"
        ) from error
    return result


def _array(path: epath.Path) -> np.ndarray:
    if in_store(path):
        return np.frombuffer(Location(path).get()[0], "<u8")
    return columns.mapped(Path(path))


def from_used(used: Mapping[str, Iterable[str]]) -> TrainedOn:
    """The record made from collection -> its items, the form of prepared datasets."""
    names = [f"{collection}:{item}" for collection, items in used.items() for item in items]
    return TrainedOn.of(names, images=len(names))
