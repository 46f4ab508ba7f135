"""The embeddings of a dataset's images in a pool, and the nearest of them by its index, as ``mining.mine`` uses them;
or those that a model computes.

Shape letters: N images of the dataset, K any of them, D embedding.
"""

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.data.items import prepared
from naturel_jax.evaluators.pool import files, index
from naturel_jax.evaluators.pool.embedded import EmbeddedPool
from naturel_jax.evaluators.pool.index import Index
from naturel_jax.storage import object_folders, once
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.progress import Progress
from tfds_naturel.hard_images import captions, mining
from tfds_naturel.hard_images.survey import Survey

if TYPE_CHECKING:
    from naturel_jax.evaluators.embed import Encoder
    from naturel_jax.models.two_tower import Params

_LOG = logging.getLogger(__name__)

_COPIES = 16  # neighbours more than are asked for, since copies of the image are among them
_MOST = 1024  # neighbours that are looked at, if most are copies or not the dataset's


def open_dataset(
    folder: Path, image_ids: Sequence[str], budget: int, by_image: bool = True
) -> tuple[mining.Embeddings, mining.Search | None, dict[str, Any]]:
    """The embeddings of the images of a dataset in the pool at ``folder``, a search for the nearest, and what is known
    of its index; without these, and without an index, if not ``by_image``. ``budget``: bytes of memory. Embeddings are
    read from the disk when they are used, unless all of the dataset's take less than a quarter of it.

    Raises UserError for a folder without a pool, one without the dataset, or if FAISS is not installed.
    """
    pool = EmbeddedPool(folder)
    found = index.load_or_build(pool, budget) if by_image else None
    dataset = DatasetInPool(pool, found, image_ids)
    if dataset.missing:
        _LOG.warning("%s: %d of %d images of the dataset are not in the pool", folder, dataset.missing, len(image_ids))
    if dataset.several:
        _LOG.warning(
            "%s: %d images of the dataset are there several times, such as %r; the last of each is taken: give each "
            "image of the pool a name of its own", folder, len(dataset.several), min(dataset.several),
        )  # fmt: skip
    small = 4 * pool.dim * len(image_ids) <= budget // 4
    zimg_ND = dataset[np.arange(len(image_ids))] if small else dataset
    return (zimg_ND, dataset.search, found.about) if found else (zimg_ND, None, {})


class Model(NamedTuple):
    """A model that embeds images and captions. ``fingerprint``: what its embeddings depend on."""

    encoder: "Encoder"
    params: "Params"
    fingerprint: str


def load(source: str, dtype: str, batch_size: int, pool: Path | None = None) -> Model:
    """The model at ``source``. Raises UserError if it is not the one that embedded the ``pool``, and whatever
    ``weights.load`` raises."""
    from naturel_jax.evaluators import fingerprints
    from naturel_jax.evaluators.embed import load_encoder  # takes seconds, and images in pools do not need it

    encoder, params = load_encoder(source, dtype=dtype, batch_size=batch_size)
    fingerprint = fingerprints.of_model(encoder.model, params, encoder.processor)
    if pool and files.model_of(pool) != fingerprint:
        raise UserError(
            f"{pool} was not embedded by --model {source} in --dtype {dtype}; captions are compared with its images, "
            "so give the model and dtype of naturel-embed"
        )
    return Model(encoder, params, fingerprint)


def queries(
    records: prepared.Records, shown: Survey, model: Model, zimg_ND: mining.Embeddings, count: int
) -> mining.Queries:
    """The first true caption of each triplet, and the ``count`` images nearest to it. Raises UserError if a triplet has
    none."""
    texts = [texts[0] for texts in prepared.true_captions(records, shown)]
    return captions.queries(shown, zimg_ND, model.encoder.captions(model.params, texts), count)


def embeddings(records: prepared.Records, model: Model) -> np.ndarray:
    """Unit embeddings [N, D], float32, of the images. Raises UserError if one cannot be read."""
    images = [Image(str(n), functools.partial(prepared.read_image, records, n)) for n in range(len(records))]
    with Progress(total=len(images), unit="image", desc="embedding") as progress:
        zimg_ND, faults = model.encoder.images(model.params, images, progress.update)
    if faults:
        n, reason = next(iter(faults.items()))
        raise UserError(f"{len(faults):,} images of the dataset cannot be read; the first is number {n}: {reason}")
    return zimg_ND


def save(
    path: epath.Path,
    mined: Iterable[mining.MinedRow],
    shown: Survey,
    dropped: Counter[str],
    margins: mining.Margins,
    about: dict[str, Any],
    query: str = "image",
) -> None:
    """Writes the file ``path``, and ``<path>.json`` with what it has, what was left out and its checksum; prints it.
    ``about``: the index; ``query``: what negatives are near to. Raises what ``storage.check_leases`` raises."""
    with object_folders.made_locally(path) as out, storage.partial(epath.Path(out)) as new, storage.naming(path):
        rows, checksum = mining.save(new, mined), once.checksum(Path(new))
        storage.check_leases(path)  # after the rows, which take hours
        new.replace(out)
        object_folders.publish(out, path)
    counts = {reason: number for reason, number in dropped.most_common() if number}
    report = {"rows": rows, "dropped": counts, "margins": dataclasses.asdict(margins), "query": query, "index": about}
    storage.write_json(path.with_name(f"{path.name}.json"), report | {"xxh3": checksum})
    print(f"{path}: negatives for {rows:,} of {len(shown.shown):,} (image, triplet) pairs")
    left_out = ", ".join(f"{reason} {number:,}" for reason, number in counts.items())
    print(f"candidates left out: {left_out or 'none'}", flush=True)


class DatasetInPool:
    """The images ``image_ids`` of a dataset, found in the pool by their names. Those that the pool does not have, since
    they could not be read, are far from all others; ``missing`` counts them. ``several``: names of the dataset's images
    that the pool has more than once."""

    def __init__(self, pool: EmbeddedPool, index: Index | None, image_ids: Sequence[str]):
        """Raises UserError if none of the images is in the pool."""
        self._pool, self._index = pool, index
        number = {name: n for n, name in enumerate(image_ids)}
        self._row_N, self.several = np.full(len(image_ids), -1), set[str]()
        for row, name in enumerate(pool.names()):
            if name in number:
                if self._row_N[number[name]] >= 0:
                    self.several.add(name)
                self._row_N[number[name]] = row
        self._sorted = np.argsort(self._row_N)
        self.missing = int((self._row_N < 0).sum())
        if self.missing == len(image_ids):
            raise UserError(
                f"{pool.folder}: none of the dataset's images, such as {image_ids[0]!r}, is in the pool; embed it: "
                "naturel-embed --source naturel/CONFIG --data_dir DIR"
            )

    def __getitem__(self, images_K: np.ndarray) -> np.ndarray:
        """Unit embeddings [K, D], float32; zeros for images that are missing."""
        rows_K = self._row_N[images_K]
        return self._pool[np.maximum(rows_K, 0)] * (rows_K >= 0)[:, None]

    def search(self, images: range, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """A ``mining.Search`` by the index."""
        found: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, int), np.empty(0))] * len(images)
        left, asked = np.flatnonzero(self._row_N[images.start : images.stop] >= 0), count + 1 + _COPIES
        while len(left):
            numbers = images.start + left
            for n, own, near, cosines in zip(left, self._row_N[numbers], *self._nearest(numbers, asked), strict=True):
                others = (near >= 0) & (near != own)
                found[n] = self._number(near[others]), cosines[others]
            if asked >= min(len(self._pool), _MOST):
                break
            left, asked = np.array([n for n in left if _usable(*found[n]) < count], int), min(4 * asked, _MOST)
        return found

    def _nearest(self, numbers: np.ndarray, asked: int) -> tuple[np.ndarray, np.ndarray]:
        assert self._index, "opened without one"
        return self._index.search(self[numbers], min(asked, len(self._pool)))

    def _number(self, rows_K: np.ndarray) -> np.ndarray:
        """The numbers of the images with these rows, -1 for those that are not the dataset's."""
        place = np.searchsorted(self._row_N, rows_K, sorter=self._sorted).clip(max=len(self._row_N) - 1)
        number = self._sorted[place]
        return np.where(self._row_N[number] == rows_K, number, -1)


def _usable(numbers: np.ndarray, cosines: np.ndarray) -> int:
    """How many neighbours are the dataset's, and no copies."""
    return int(((numbers >= 0) & (cosines < mining.COPY)).sum())
