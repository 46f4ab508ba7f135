"""Mined negative images: for an image and a triplet that it shows, similar images that do not show the triplet.

They replace the sentinel (the blank image) as NegCLIP's hard negative images.

Shape letters: N images, K some of them, T triplets, D embedding.
"""

import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from tfds_naturel.captions.relations import CONTRARIES, RELATIONS, converse
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Triplet
from tfds_naturel.hard_images.survey import Survey

SWAP, RELATION, ATTRIBUTE, NEAREST = "swap", "relation", "attribute", "nearest"

_MAX_CANDIDATES = 256  # most candidates per kind that are compared for an image and triplet
ROWS = 1024  # images per matrix product in the neighbour search
_WRITTEN = 1 << 15  # rows per write
COPY = 0.97  # photos with at least this cosine are copies of each other, so not negatives
# Why a candidate is dropped; or the name of the margin.
IS_COPY, SHOWS_TRIPLET, NOT_IN_DATASET = "copy", "shows_triplet", "not_in_dataset"
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


class Embeddings(Protocol):
    """Unit embeddings [N, D] of the images of a survey: an array, or what is read from a disk."""

    def __getitem__(self, images: np.ndarray, /) -> np.ndarray: ...


# (images, K) -> for each image the numbers of its at most K nearest others, nearest first, and their cosines; -1: one
# that is not in the survey.
Search = Callable[[range, int], list[tuple[np.ndarray, np.ndarray]]]


class Queries(NamedTuple):
    """What negatives are near to in place of the image: the unit embedding [T, D], float32, of a true caption of each
    triplet; and the numbers [T, K] of the images nearest to it that do not show the triplet, -1 if there are fewer."""

    z_TD: np.ndarray
    near_TK: np.ndarray


@dataclasses.dataclass(frozen=True)
class Margins:
    """Limits on how near a negative may be, in the words of sentence-transformers' ``mine_hard_negatives``.

    ``range_min`` and ``range_max``: ranks, from 0, of the nearest neighbours that are used. The cosine of a negative is
    at most ``max_score``, the positive's less ``absolute_margin``, and the positive's less ``relative_margin`` times
    its magnitude, where the positive is the nearest other image that is annotated with the triplet; for a caption, its
    own image.
    """

    range_min: int = 0
    range_max: int | None = None  # default: four times the count further
    max_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None

    def limits(self, positive: float) -> dict[str, float]:
        """Name of a margin -> the highest cosine of a negative. ``positive``: NaN, which no cosine exceeds, if there is
        none."""
        absolute, relative = self.absolute_margin, self.relative_margin
        limits = {
            "max_score": self.max_score,
            "absolute_margin": None if absolute is None else positive - absolute,
            "relative_margin": None if relative is None else positive - relative * abs(positive),
        }
        return {name: limit for name, limit in limits.items() if limit is not None}

    def stop(self, count: int) -> int:
        """The rank at which a search for ``count`` negatives ends."""
        return self.range_min + 4 * count if self.range_max is None else self.range_max


_NO_MARGINS = Margins()


def mine(
    survey: Survey,
    count: int,
    seed: int = 0,
    zimg_ND: Embeddings | None = None,
    search: Search | None = None,
    margins: Margins = _NO_MARGINS,
    dropped: Counter[str] | None = None,
    images: range | None = None,
    queries: Queries | None = None,
) -> Iterator[MinedRow]:
    """At most ``count`` negatives for each image and triplet of ``survey`` that has any; or only for its ``images``,
    whose first is divisible by ``ROWS``: what is mined for an image does not depend on the others.

    Kinds come in the order swap, relation, attribute, nearest. Given ``zimg_ND``, the nearest come first within a kind;
    without it the order is random, a function of the seed, the image and the triplet, and there is no ``nearest``.
    Of a kind with more than 256 candidates, a sample is compared. ``search`` finds the nearest images; by default, by
    all cosines of an array. With ``queries``, they are nearest to the triplet's caption. ``dropped`` counts, by
    reason, what was looked at and left out for each image, triplet and kind. Raises UserError for embeddings that are
    not an array without a ``search``.
    """
    dropped = Counter() if dropped is None else dropped
    if search is None and queries is None and zimg_ND is not None:
        if not isinstance(zimg_ND, np.ndarray):
            raise UserError("embeddings on a disk: need search=, such as that of evaluators.pool.mining.open_dataset")
        search = functools.partial(all_cosines, zimg_ND)
    most = margins.stop(count)
    showing = survey.images_of()
    by_kind = [kinds_of(triplet, survey.triplets) for triplet in survey.triplets]
    pools = [
        {kind: np.unique(np.concatenate([showing[t] for t in numbers])) for kind, numbers in kinds.items() if numbers}
        for kinds in by_kind
    ]
    images = range(len(survey.image_ids)) if images is None else images
    for start in images[::ROWS]:
        block = range(start, min(start + ROWS, images.stop))
        near = search(block, most) if search else []
        for n in block:
            for t in survey.shown[survey.first_N1[n] : survey.first_N1[n + 1]].tolist():
                query_D = queries.z_TD[t] if queries else None
                compare = None if zimg_ND is None else functools.partial(_compared, n, zimg_ND, query_D, dropped)
                ranked = _ranked(pools[t], np.random.default_rng([seed, n, t]), compare)
                if search:
                    ranked += _ranks(*near[n - start], margins.range_min, most, dropped)
                elif queries and compare:
                    found = compare(NEAREST, queries.near_TK[t])
                    dropped["range_min"] += len(found[: margins.range_min])
                    ranked += found[margins.range_min : most]
                limits = margins.limits(_positive(n, showing[t], [seed, n, t], zimg_ND, query_D, margins))
                if chosen := _chosen(survey, n, survey.triplets[t], ranked, count, limits, dropped):
                    names = [survey.image_ids[m] for m in chosen]
                    yield survey.image_ids[n], str(survey.triplets[t]), names, list(chosen.values())


Candidate = tuple[str, int, float]  # kind, number of the image, cosine; NaN without embeddings


def _ranked(
    pools: dict[str, np.ndarray], rng: np.random.Generator, compare: Callable[[str, np.ndarray], list[Candidate]] | None
) -> list[Candidate]:
    ranked: list[Candidate] = []
    for kind, pool in pools.items():
        pool = rng.choice(pool, min(_MAX_CANDIDATES, len(pool)), replace=False)
        ranked += compare(kind, pool) if compare else [(kind, m, math.nan) for m in pool.tolist()]
    return ranked


def _compared(
    n: int, zimg_ND: Embeddings, query_D: np.ndarray | None, dropped: Counter[str], kind: str, images: np.ndarray
) -> list[Candidate]:
    """The images by their cosine with the query, by default image ``n``; without copies of this image."""
    images = images[images >= 0]
    z_KD = zimg_ND[images]
    found = to_image = cosines(z_KD, zimg_ND[np.array([n])][0])
    if query_D is not None:  # captions may be far from all images, but none is as far as one without an embedding
        found = np.where(z_KD.any(axis=1), cosines(z_KD, query_D), -1)
    dropped[IS_COPY] += int(((to_image >= COPY) & (images != n)).sum())
    order = np.argsort(-found, kind="stable")
    order = order[to_image[order] < COPY]
    return [(kind, m, cosine) for m, cosine in zip(images[order].tolist(), found[order].tolist(), strict=True)]


def _cosines(zimg_ND: Embeddings, images: np.ndarray, n: int) -> np.ndarray:
    return cosines(zimg_ND[images], zimg_ND[np.array([n])][0])


def cosines(z_KD: np.ndarray, z_D: np.ndarray) -> np.ndarray:
    """The cosine [K] of each unit vector with another. A matrix product would round them as the number of rows, of
    threads and the processor have it; these have the same bits everywhere, so workers find the same order."""
    cosines_K: np.ndarray = (z_KD * z_D).sum(axis=1)
    return cosines_K


def _positive(
    n: int,
    showing: np.ndarray,
    seed: Sequence[int],
    zimg_ND: Embeddings | None,
    query_D: np.ndarray | None,
    margins: Margins,
) -> float:
    """The cosine of the caption with image ``n``; without one, the highest of image ``n`` with another one of
    ``showing``, or of a sample of them, that is no copy of it. NaN if there is none, or no margin needs it."""
    if zimg_ND is None or (margins.absolute_margin is None and margins.relative_margin is None):
        return math.nan
    if query_D is not None:
        z_D = zimg_ND[np.array([n])][0]
        return float(cosines(z_D[None], query_D)[0]) if z_D.any() else math.nan
    others = showing[showing != n]
    if len(others) > _MAX_CANDIDATES:
        others = np.random.default_rng([*seed, 1]).choice(others, _MAX_CANDIDATES, replace=False)
    found = _cosines(zimg_ND, others, n) if len(others) else np.empty(0)
    return float(found[found < COPY].max(initial=-np.inf)) if (found < COPY).any() else math.nan


def _ranks(images: np.ndarray, cosines: np.ndarray, first: int, stop: int, dropped: Counter[str]) -> list[Candidate]:
    """The neighbours of an image from rank ``first`` on, without copies."""
    is_copy = cosines >= COPY
    images, cosines = images[~is_copy], cosines[~is_copy]
    known = images >= 0
    images, cosines = images[known][:stop], cosines[known][:stop]
    dropped.update({IS_COPY: int(is_copy.sum()), NOT_IN_DATASET: int((~known).sum()), "range_min": len(images[:first])})
    return [(NEAREST, m, cosine) for m, cosine in zip(images[first:].tolist(), cosines[first:].tolist(), strict=True)]


def all_cosines(zimg_ND: np.ndarray, images: range, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A ``Search`` in an array: the ``count`` nearest of each image that are no copies, and all copies."""
    cosines = zimg_ND[images.start : images.stop] @ zimg_ND.T
    count, found = min(count, len(zimg_ND)), []
    for n, cosines_N in zip(images, cosines, strict=True):
        cosines_N[n] = -np.inf
        copies = np.flatnonzero(cosines_N >= COPY)
        cosines_N[copies] = -np.inf
        nearest = np.sort(np.argpartition(cosines_N, -count)[-count:])
        nearest = nearest[np.argsort(-cosines_N[nearest], kind="stable")]  # ties: lowest number first
        nearest = nearest[cosines_N[nearest] > -np.inf]
        found.append((np.concatenate([copies, nearest]), np.append(np.ones(len(copies)), cosines_N[nearest])))
    return found


def _chosen(
    survey: Survey,
    n: int,
    triplet: Triplet,
    ranked: Iterable[Candidate],
    count: int,
    limits: Mapping[str, float],
    dropped: Counter[str],
) -> dict[int, str]:
    """The first ``count`` of ``ranked`` within the limits that do not show ``triplet``, with their kinds."""
    chosen: dict[int, str] = {}
    for kind, m, cosine in ranked:
        if len(chosen) == count:
            break
        if m == n or m in chosen:
            continue
        exceeded = next((name for name, limit in limits.items() if cosine > limit), "")
        if exceeded or may_hold(triplet, survey.triplets_of(m)):
            dropped[exceeded or SHOWS_TRIPLET] += 1
        else:
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
    function of the image and the triplet."""

    def __init__(self, survey: Survey):
        self._survey = survey
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
            rng = np.random.default_rng([0, n, self._number[triplet], t])
            pool = self._showing[t]
            for m in rng.choice(pool, min(_MAX_CANDIDATES, len(pool)), replace=False).tolist():
                shown = self._survey.triplets_of(m)
                if m != n and not may_hold(triplet, shown):
                    return Contrast(m, asserted is None or any(_same(fact, asserted) for fact in shown))
        return None


def _same(fact: Triplet, other: Triplet | None) -> bool:
    return other is not None and other in (fact, converse(fact))


def save(
    path: epath.PathLike, mined: Iterable[Sequence[Any]], schema: pa.Schema = _SCHEMA, batch_size: int = _WRITTEN
) -> int:
    """Writes a Parquet file, by default of ``MinedRow`` (image_id, triplet, negatives, kinds), so many rows at a time;
    returns its number of rows."""
    rows, path, left = 0, epath.Path(path), iter(mined)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as f, pq.ParquetWriter(f, schema, write_page_checksum=True) as writer:
            while batch := list(itertools.islice(left, batch_size)):
                rows += len(batch)
                writer.write_table(
                    pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in batch], schema)
                )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return rows
