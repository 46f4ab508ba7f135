"""The benchmark interface: a benchmark lists items and scores a small matrix of cosines per item. It knows nothing
about models, devices or batching.

A new benchmark is one file with ``read(folder) -> Benchmark`` and ``SOURCE: Source``, and one line in ``registry.py``.

Shape letters: N items, S items that are scored, M items that a mean is over, G groups, R resamples.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

Box = tuple[int, int, int, int]
Caption = str | tuple[str, ...]  # several texts: their normalized mean embedding (CLIP's prompt ensembling)
Outcomes = dict[str, np.ndarray]
_MOST = 2_000  # metrics of a benchmark, besides one for two items
Chance = Mapping[str, "float | Callable[[Item], float]"]  # outcome -> a guess's expected outcome, or that of an item


@dataclasses.dataclass(frozen=True)
class Image:
    """One image of an item, read on demand.

    ``key`` names the encoded bytes (same key, same bytes); ``box`` is the crop as (left, top, right, bottom) in pixels.
    ``read`` raises OSError or ValueError if the bytes cannot be read. ``names``: what the image is called in public
    collections (``identity.of_name``), besides what ``key`` says. ``version`` changes when the file that ``key`` names
    is replaced; "" if ``key`` has a hash of the bytes.
    """

    key: str
    read: Callable[[], bytes]
    box: Box | None = None
    names: tuple[str, ...] = ()
    version: str = ""


@dataclasses.dataclass(frozen=True)
class Item:
    """Images and captions whose cosines are compared: a matrix [images, captions].

    With ``caption_rows`` the captions are rows too, after the images (for rules that compare captions with each other).
    A tag may have several values. ``weight`` is its weight in weighted metrics: in text-to-image retrieval, where an
    item is an image, its number of captions.
    """

    id: str
    images: tuple[Image, ...]
    captions: tuple[Caption, ...]
    tags: Mapping[str, str | tuple[str, ...]] = dataclasses.field(default_factory=dict)
    caption_rows: bool = False
    weight: float = 1.0


Positions = dict[str, dict[str, np.ndarray]]  # tag -> value -> indices of the items that have it


def positions(items: Sequence[Item], tags: Iterable[str]) -> Positions:
    """The items with each value of each of ``tags``, values in alphabetical order."""
    index: dict[str, dict[str, list[int]]] = {tag: {} for tag in tags}
    for n, item in enumerate(items):
        for tag, by_value in index.items():
            values = item.tags.get(tag, ())
            for value in (values,) if isinstance(values, str) else values:
                by_value.setdefault(value, []).append(n)
    return {tag: {value: np.array(by_value[value]) for value in sorted(by_value)} for tag, by_value in index.items()}


@dataclasses.dataclass(frozen=True)
class Metric:
    """The mean of one outcome: over all items, over those with a tag's value (``where``), or over the means of a tag's
    values (``macro``).

    A macro mean leaves out items without the tag, and values with fewer than ``min_count`` items. A ``weighted`` mean
    weights each item by its ``weight``.
    """

    name: str
    outcome: str
    where: tuple[str, str] | None = None
    macro: str | None = None
    min_count: int = 1
    weighted: bool = False

    def members(self, judged_N: np.ndarray, by_tag: Positions) -> tuple[np.ndarray, np.ndarray]:
        """Indices [M] of the items that the mean is over, and the group [M] of each. ``judged_N``: whether each item
        has an outcome.
        """
        if self.macro:
            parts = list(by_tag[self.macro].values())
        elif self.where:
            tag, value = self.where
            parts = [by_tag[tag].get(value, np.array([], int))]
        else:
            parts = [np.arange(len(judged_N))]
        parts = [part[judged_N[part]] for part in parts]
        parts = [part for part in parts if len(part) >= self.min_count]
        groups = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return np.concatenate([*parts, np.array([], int)]), groups

    def weights(self, items: Sequence[Item], index_M: np.ndarray) -> np.ndarray:
        """Weights [M] of the items at ``index_M``."""
        return np.array([items[n].weight for n in index_M]) if self.weighted else np.ones(len(index_M))


_LESS_IS_BETTER = re.compile(r"[^/]+/(no_op|ties|brittleness)|hard_positives_(replace|swap)/brittleness/.+")


def sign(metric: str) -> int:
    """-1 for a score of which less is better, otherwise 1: the best of several is that with the highest product. A
    class, a data set or a tag may be called so, too."""
    return -1 if _LESS_IS_BETTER.fullmatch(metric) else 1


def headlines(metrics: Iterable[str]) -> list[str]:
    """The metrics that tables and logs show: of each benchmark those with the fewest parts, such as ``winoground/text``
    without ``winoground/text/Object``, and ``zeroshot/birds/top1``."""
    by_benchmark = defaultdict(list)
    for metric in metrics:
        by_benchmark[metric.split("/")[0]].append(metric)
    fewest = {name: min(metric.count("/") for metric in names) for name, names in by_benchmark.items()}
    return [m for name, names in by_benchmark.items() for m in names if m.count("/") == fewest[name]]


def mean_of_groups(sums_GR: np.ndarray, totals_GR: np.ndarray) -> np.ndarray:
    """The mean over groups of each group's weighted mean, [R], from its weighted sums and total weights; groups of
    weight 0 are left out; NaN if all are.
    """
    seen_GR = totals_GR > 0
    means_GR = np.divide(sums_GR, totals_GR, out=np.zeros_like(sums_GR), where=seen_GR)
    groups_R = np.sum(seen_GR, axis=0)
    return np.divide(means_GR.sum(axis=0), groups_R, out=np.full(len(groups_R), np.nan), where=groups_R > 0)


def by_value(name: str, outcome: str, tag: str, items: Sequence[Item]) -> tuple[Metric, ...]:
    """One metric ``name/<value>`` for every value of ``tag`` among the items."""
    return tuple(Metric(f"{name}/{value}", outcome, where=(tag, value)) for value in positions(items, [tag])[tag])


@dataclasses.dataclass(frozen=True)
class Score:
    """The value of a metric, in [0, 1], and the number of items it covers."""

    value: float
    count: int


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Items and the published rule that scores them.

    ``outcomes`` turns items and their cosines into arrays [items] of numbers in [0, 1], NaN where the rule does not
    score an item. ``published`` is the official number of items; ``problems`` names what could not be read, and how
    many ``metrics`` were too many. The first ``true_captions`` captions of an item are true of its first image and the
    others false (0: the order says nothing). ``left_out``: items that are not scored, since the model was trained on
    their images; items that share the tag ``together`` are scored and resampled together, or all left out. ``gallery``:
    an item is compared with all others, as in retrieval, so those that are left out stay candidates. ``chance``: what a
    model is expected to get whose cosines are independent draws from one continuous distribution, or a function of the
    embedded items that says so; an outcome without it has no chance level.
    """

    name: str
    items: Sequence[Item]
    outcomes: Callable[[Sequence[Item], Sequence[np.ndarray]], Outcomes]
    metrics: Sequence[Metric]
    published: int | None = None
    problems: Sequence[str] = ()
    true_captions: int = 0
    left_out: tuple[Item, ...] = ()
    together: str = ""
    gallery: bool = False
    chance: Chance | Callable[[Sequence[Item]], Chance] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("items", "metrics", "problems"):  # readers collect lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        most = _MOST + (len(self.items) + len(self.left_out)) // 2
        if (number := len(self.metrics)) > most:  # each is resampled, and a tag can have any number of values
            first = {metric.name for metric in sorted(self.metrics, key=lambda metric: metric.name.count("/"))[:most]}
            object.__setattr__(self, "metrics", tuple(metric for metric in self.metrics if metric.name in first))
            problem = f"has {number:,} scores, expected at most {most:,}: {number - most:,} values of tags have none"
            object.__setattr__(self, "problems", (*self.problems, problem))

    def score(self, items: Sequence[Item], cosines: Sequence[np.ndarray]) -> dict[str, Score]:
        """Metric name -> score over ``items`` (those that were embedded) and their matrices; metrics without items are
        left out.
        """
        scored, _, outcomes = self.judge(items, cosines)
        return self.means(self.metrics, scored, outcomes) if scored else {}

    def judge(
        self, items: Sequence[Item], cosines: Sequence[np.ndarray]
    ) -> tuple[list[Item], list[np.ndarray], Outcomes]:
        """The items that are scored, of the embedded ``items``, with their matrices and outcomes."""
        left_out = {item.id for item in self.left_out}
        scored_S = [n for n, item in enumerate(items) if item.id not in left_out]
        scored, matrices = [items[n] for n in scored_S], [cosines[n] for n in scored_S]
        if not scored:
            return [], [], {}
        if not self.gallery:
            return scored, matrices, self.outcomes(scored, matrices)
        return scored, matrices, {name: x_N[scored_S] for name, x_N in self.outcomes(items, cosines).items()}

    def guess(self, items: Sequence[Item], embedded: Sequence[Item] | None = None) -> dict[str, float]:
        """Metric name -> the score that a guess is expected to get over ``items``; metrics without ``chance`` are left
        out. ``embedded``: these and those that are left out.
        """
        chance = self.chance(items if embedded is None else embedded) if callable(self.chance) else self.chance
        expected = {
            outcome: np.array([value(item) if callable(value) else value for item in items])
            for outcome, value in chance.items()
        }
        metrics = [metric for metric in self.metrics if metric.outcome in expected]
        return {name: score.value for name, score in self.means(metrics, items, expected).items()}

    def means(self, metrics: Sequence[Metric], items: Sequence[Item], outcomes: Outcomes) -> dict[str, Score]:
        """Metric name -> mean of its outcome over ``items``; metrics without items are left out."""
        scores: dict[str, Score] = {}
        by_tag = positions(items, self.tags)
        for metric in metrics:
            values_N = outcomes[metric.outcome]
            index_M, groups_M = metric.members(~np.isnan(values_N), by_tag)
            if len(index_M):
                weights_M = metric.weights(items, index_M)
                sums_G, totals_G = (np.bincount(groups_M, x_M) for x_M in (weights_M * values_N[index_M], weights_M))
                value = mean_of_groups(sums_G[:, None], totals_G[:, None])[0]
                scores[metric.name] = Score(float(value), len(index_M))
        return scores

    def held_out(self, trained_on: Collection[str]) -> "Benchmark":
        """This benchmark without the items that have these ids."""
        shared = {item.tags.get(self.together) for item in self.items if item.id in trained_on} - {None}
        out = [item.id in trained_on or item.tags.get(self.together) in shared for item in self.items]
        if not any(out):
            return self
        kept, left_out = (tuple(item for item, o in zip(self.items, out, strict=True) if o == side) for side in (0, 1))
        return dataclasses.replace(self, items=kept, left_out=(*self.left_out, *left_out))

    @property
    def whole(self) -> "Benchmark":
        """This benchmark with all its items."""
        return dataclasses.replace(self, items=(*self.items, *self.left_out), left_out=())

    @property
    def tags(self) -> set[str]:
        """The tags that the metrics refer to."""
        return {tag for metric in self.metrics for tag in (metric.macro, metric.where and metric.where[0]) if tag}


class HubFiles(NamedTuple):
    """Files of a dataset on the Hugging Face hub; those that match ``pattern`` go to ``folder``."""

    dataset: str
    pattern: str
    folder: str


class Overlap(NamedTuple):
    """``training``: a collection that models are trained on. ``known``: how much of it is the same images; ``source``:
    where that is stated, if not by the collections themselves."""

    training: str
    known: str
    source: str = ""


class Origin(NamedTuple):
    """``images``: the collection, or part of one, that images come from. ``source``: where the benchmark says so."""

    images: str
    source: str
    overlaps: tuple[Overlap, ...] = ()


class Verified(NamedTuple):
    """What a reader was tried on: it read ``items`` from the official files without a fault, and scored random cosines
    as the official code does. ``sha256``: of these files one after the other, in the order of their paths; ``part``:
    which of them, or what of this, if not all."""

    sha256: str
    items: int
    date: str
    part: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
    """The origin of a benchmark.

    ``needs``: what the user puts into the folder. ``files``: path in the folder -> URL, for what may be downloaded.
    ``extract``: path -> function that extracts the file's content from the download, if it is not stored as downloaded.
    ``images(folder)``: path -> URL of the images that the files in the folder refer to. ``hub``: files on the hub.
    ``prepared``: ``read`` takes a prepared TFDS folder (``--naturel``) instead of the folder of official files.
    ``origins``: the collections that its images come from, for models without a record of their training images and for
    a look before a run starts (``naturel_jax.data.seen.trained_on`` finds the images that a run was trained on).
    ``verified``: the official files that the reader was tried on; None if its tests make files in the official format.
    ``together``: that of the benchmark, for results, which do not hold it.
    """

    licence: str
    where: str
    needs: str
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extract: Mapping[str, Callable[[bytes], bytes]] = dataclasses.field(default_factory=dict)
    images: Callable[[Path], dict[str, str]] | None = None
    hub: HubFiles | None = None
    prepared: bool = False
    origins: tuple[Origin, ...] = ()
    verified: Verified | None = None
    together: str = ""

    @property
    def tier(self) -> str:
        """How far the reader is known to be right, in words."""
        if not self.verified:
            return "format only"
        sha256, items, date, part = self.verified
        of = f" on {part}" if part else ""
        return f"verified{of} (sha256 {sha256[:12]}, {items:,} items, {date})"

    @property
    def downloadable(self) -> bool:
        """Whether a program may download any of its files."""
        return bool(self.files or self.hub)


class Entry(NamedTuple):
    """A benchmark that shares its module with others: the two names that a module of its own would have."""

    SOURCE: Source
    read: Callable[[Path], Benchmark]
