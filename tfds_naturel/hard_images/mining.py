"""Mined negative images: for an image and a triplet it shows, images with similar looks or annotations without it.

They replace the sentinel (the blank image) as NegCLIP's hard negative images.

Shape letters: N images, D embedding.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from tfds_naturel.captions.relations import CONTRARIES, RELATIONS, converse
from tfds_naturel.common.arrow_files import parquet_batches
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import reading_arrow
from tfds_naturel.common.schema import Triplet
from tfds_naturel.hard_images.survey import Survey

SWAP, RELATION, ATTRIBUTE, NEAREST = "swap", "relation", "attribute", "nearest"

_MAX_CANDIDATES = 256  # most candidates per kind that are compared for an image and triplet
_ROWS = 1024  # images per matrix product in the neighbour search; rows per write
_NEAR_DUPLICATE = 0.97  # photos with at least this cosine are copies of each other, so not negatives
_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("triplet", pa.string()),
        ("negatives", pa.list_(pa.string())),
        ("kinds", pa.list_(pa.string())),
    ]
)

# Ids of an image and of its negatives, hardest first; the triplet, empty if they are for the image as a whole; and why
# each is hard. ``swap``: the same classes with the roles swapped; ``relation``: the same classes in another relation;
# ``attribute``: the same class with a contrary attribute; ``nearest``: a nearest neighbour in embedding space.
MinedRow = tuple[str, str, list[str], list[str]]  # image, triplet, negatives, kinds


def may_hold(triplet: Triplet, shown: Iterable[Triplet]) -> bool:
    """Whether an image annotated with ``shown`` may show ``triplet``. Annotations are incomplete.

    True if the triplet or its converse is annotated, or an annotated relation between the same objects implies it
    (someone who plays a guitar also holds it).
    """
    for annotated in shown:
        for fact in (annotated, converse(annotated)):
            if fact == triplet:
                return True
            if fact and (fact.subject, fact.object) == (triplet.subject, triplet.object):
                relation = RELATIONS.get(fact.relation)
                if relation and triplet.relation in relation.implies:
                    return True
    return False


def kinds_of(triplet: Triplet, triplets: Sequence[Triplet]) -> dict[str, list[int]]:
    """Kind -> the indices of the ``triplets`` that would make an image a hard negative for ``triplet``."""
    kinds: dict[str, list[int]] = {SWAP: [], RELATION: [], ATTRIBUTE: []}
    for number, other in enumerate(triplets):
        if triplet.relation == "is":
            contrary = other.object in CONTRARIES.get(triplet.object, ())
            if other.relation == "is" and other.subject == triplet.subject and contrary:
                kinds[ATTRIBUTE].append(number)
        elif other.relation != "is" and not may_hold(triplet, [other]):
            same, swapped = (other.subject, other.object), (other.object, other.subject)
            if (triplet.subject, triplet.object) == swapped and other.relation == triplet.relation:
                kinds[SWAP].append(number)
            elif (triplet.subject, triplet.object) in (same, swapped):
                kinds[RELATION].append(number)
    return kinds


def mine(survey: Survey, count: int, seed: int = 0, zimg_ND: np.ndarray | None = None) -> Iterator[MinedRow]:
    """At most ``count`` negatives for each image and triplet of ``survey`` that has any.

    Kinds come in the order swap, relation, attribute, nearest. Given ``zimg_ND``, unit embeddings of the images
    (float [N, D]), the nearest come first within a kind; without it the order is random, a function of the seed, the
    image and the triplet, and there is no ``nearest``. Kinds with very many candidates are subsampled.
    """
    showing = survey.images_of()
    by_kind = [kinds_of(triplet, survey.triplets) for triplet in survey.triplets]
    pools = [
        {kind: np.unique(np.concatenate([showing[t] for t in numbers])) for kind, numbers in kinds.items() if numbers}
        for kinds in by_kind
    ]
    for start in range(0, len(survey.image_ids), _ROWS):
        images = range(start, min(start + _ROWS, len(survey.image_ids)))
        neighbours = None if zimg_ND is None else _neighbours(zimg_ND, images, 4 * count)
        for n in images:
            for t in survey.shown[survey.first_N1[n] : survey.first_N1[n + 1]].tolist():
                ranked = _ranked(n, pools[t], np.random.default_rng([seed, n, t]), zimg_ND)
                if neighbours is not None:
                    ranked = [*ranked, *((NEAREST, m) for m in neighbours[n - start])]
                if chosen := _chosen(survey, n, survey.triplets[t], ranked, count):
                    names = [survey.image_ids[m] for m in chosen]
                    yield survey.image_ids[n], str(survey.triplets[t]), names, list(chosen.values())


def _ranked(
    n: int, pools: dict[str, np.ndarray], rng: np.random.Generator, zimg_ND: np.ndarray | None
) -> list[tuple[str, int]]:
    ranked: list[tuple[str, int]] = []
    for kind, pool in pools.items():
        pool = rng.choice(pool, min(_MAX_CANDIDATES, len(pool)), replace=False)
        if zimg_ND is not None:
            cosines = zimg_ND[pool] @ zimg_ND[n]
            pool, cosines = pool[order := np.argsort(-cosines, kind="stable")], cosines[order]
            pool = pool[cosines < _NEAR_DUPLICATE]
        ranked += ((kind, m) for m in pool.tolist())
    return ranked


def _neighbours(zimg_ND: np.ndarray, images: range, count: int) -> list[list[int]]:
    """The nearest images of each, at most ``count``, nearest first, without copies and the image itself."""
    cosines = zimg_ND[images.start : images.stop] @ zimg_ND.T
    cosines[cosines >= _NEAR_DUPLICATE] = -np.inf
    count = min(count, cosines.shape[1])
    nearest = np.sort(np.argpartition(-cosines, count - 1, axis=1)[:, :count], axis=1)  # ties: lowest number first
    cosines = np.take_along_axis(cosines, nearest, axis=1)
    order = np.argsort(-cosines, axis=1, kind="stable")
    ranked = zip(np.take_along_axis(nearest, order, axis=1), np.take_along_axis(cosines, order, axis=1), strict=True)
    return [row[row_cosines > -np.inf].tolist() for row, row_cosines in ranked]


def _chosen(survey: Survey, n: int, triplet: Triplet, ranked: Iterable[tuple[str, int]], count: int) -> dict[int, str]:
    """The first ``count`` of ``ranked`` that do not show ``triplet`` themselves, with their kinds."""
    chosen: dict[int, str] = {}
    for kind, m in ranked:
        if len(chosen) == count:
            break
        if m != n and m not in chosen and not may_hold(triplet, survey.triplets_of(m)):
            chosen[m] = kind
    return chosen


class Contrast(NamedTuple):
    """``image``: the number of an image that does not show a triplet, with the same classes. ``mirrored``: whether it
    shows what the triplet's false caption claims."""

    image: int
    mirrored: bool


class Contrasts:
    """Finds for an image and a triplet that it shows another image of ``survey`` with the same classes, or the same
    class with a contrary attribute, that does not show the triplet: by the rules of ``mine``, in an order that is a
    function of the seed, the image and the triplet."""

    def __init__(self, survey: Survey, seed: int = 0):
        self._survey, self._seed = survey, seed
        self._showing = survey.images_of()
        self._number = {triplet: t for t, triplet in enumerate(survey.triplets)}
        self._kinds = functools.cache(lambda triplet: kinds_of(triplet, survey.triplets))

    def find(self, n: int, triplet: Triplet, asserted: Triplet | None) -> Contrast | None:
        """The contrast for image ``n``, or None. It shows ``asserted``, the claim of a false caption, if that is a
        contrary triplet that some image shows. A false caption without a claim is a denial, true of any contrast.
        """
        contrary = [t for numbers in self._kinds(triplet).values() for t in numbers]
        contrary.sort(key=lambda t: not _same(self._survey.triplets[t], asserted))
        for t in contrary:
            rng = np.random.default_rng([self._seed, n, self._number[triplet], t])
            pool = self._showing[t]
            for m in rng.choice(pool, min(_MAX_CANDIDATES, len(pool)), replace=False).tolist():
                shown = self._survey.triplets_of(m)
                if m != n and not may_hold(triplet, shown):
                    return Contrast(m, asserted is None or any(_same(fact, asserted) for fact in shown))
        return None


def _same(fact: Triplet, other: Triplet | None) -> bool:
    return other is not None and other in (fact, converse(fact))


def save(path: epath.PathLike, mined: Iterable[MinedRow]) -> int:
    """Writes a Parquet file (image_id, triplet, negatives, kinds); returns its number of rows."""
    rows, path, left = 0, epath.Path(path), iter(mined)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as f, pq.ParquetWriter(f, _SCHEMA) as writer:
        while batch := list(itertools.islice(left, _ROWS)):
            rows += len(batch)
            writer.write_table(
                pa.Table.from_pylist([dict(zip(_SCHEMA.names, row, strict=True)) for row in batch], _SCHEMA)
            )
    part.replace(path)
    return rows


def hard_images(path: epath.PathLike, image_ids: Sequence[str]) -> list[tuple[int, ...]]:
    """The numbers of the mined negatives of each image, in the order of ``image_ids``; empty for an image without any.

    Raises UserError if the file names an image that is not in ``image_ids``, since it was mined from another split.
    """
    numbers = {image_id: n for n, image_id in enumerate(image_ids)}
    hard: list[dict[int, None]] = [{} for _ in image_ids]
    with reading_arrow(path, "mine again"):
        batches = parquet_batches(path, _ROWS, _SCHEMA.names, kept=True)
        rows = [(row.get("image_id"), row.get("negatives")) for batch in batches for row in batch.to_pylist()]
    for image_id, negatives in rows:
        if not isinstance(negatives, list | None):
            raise UserError(f"{path}: negatives are {negatives!r:.80}, expected a list of image ids; mine again")
        unknown = [name for name in (image_id, *(negatives or ())) if not isinstance(name, str) or name not in numbers]
        if unknown:
            raise UserError(f"{path}: image {unknown[0]!r:.80} is not in this dataset; mine this split again")
        hard[numbers[image_id]] |= dict.fromkeys(numbers[name] for name in negatives or ())
    return [tuple(negatives) for negatives in hard]
