"""How much of a benchmark can be solved without its images: by the words alone, by the length of captions, by ties, or
by what training captions say.

Shape letters: N items, C captions of an item.
"""

import functools
import hashlib
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from naturel_jax.benchmarks import blind, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Outcomes, headlines

ORDER_ONLY, UNSOLVED = "order-only", "not solved blind"

WordPair = tuple[str, str]


class Row(NamedTuple):
    """A metric, the number of its items, of those that are order only, and column -> value."""

    metric: str
    items: int
    order_only: int
    values: Mapping[str, float]


COLUMNS = ("chance", "all tied", "shortest", "longest", "blind", "blind, order-only")
SEEN = ("true seen", "false seen", "most seen")


def compares_captions(benchmark: Benchmark) -> bool:
    """Whether the true captions of its items are known to be the first ones, and plain texts."""
    return benchmark.true_captions > 0 and bool(benchmark.items)


def is_compared(benchmark: Benchmark) -> bool:
    """Whether an item chooses among captions or images of its own: pairs, groups and choices, not retrieval or
    classification."""
    sizes = {(len(item.images), len(item.captions)) for item in benchmark.items}
    return compares_captions(benchmark) or (bool(sizes) and all(size == (2, 2) or size[1] == 1 for size in sizes))


def order_only(benchmark: Benchmark, items: Sequence[Item]) -> np.ndarray:
    """Whether each item's captions are the same words in another order, bool [N]: each false caption has the words of a
    true one, or the second caption of a group those of the first."""
    true = benchmark.true_captions or 1

    def same(item: Item) -> bool:
        bags = [sorted(_words(text)) for text in blind.texts(item)]
        return len(bags) > true and all(bag in bags[:true] for bag in bags[true:])

    return np.array([same(item) for item in items], bool)


def parts(
    benchmark: Benchmark, items: Sequence[Item], matrices: Sequence[np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """``ORDER_ONLY`` and ``UNSOLVED`` -> outcome -> whether each item is in that part, bool [N].

    An item is not solved blind if ``blind.worded`` does not get the outcome wholly right; where it cannot be fitted, as
    for groups, which no model without images wins, that is every item. ``matrices``: see ``blind.outcomes``.
    """
    order_N, names = order_only(benchmark, items), {metric.outcome for metric in benchmark.metrics}
    found = {ORDER_ONLY: dict.fromkeys(names, order_N), UNSOLVED: dict.fromkeys(names, np.ones(len(items), bool))}
    if compares_captions(benchmark):
        values = blind.worded(items, benchmark.true_captions)
        guessed = blind.outcomes(benchmark, items, values, matrices)
        found[UNSOLVED] = {name: ~(guessed[name] >= 1) for name in names}
    return found


def masked(outcomes: Outcomes, part: Mapping[str, np.ndarray]) -> Outcomes:
    """The outcomes of the items in a part; those of others are NaN."""
    return {name: np.where(kept_N, outcomes[name], np.nan) for name, kept_N in part.items()}


# ---- The map ---------------------------------------------------------------------------------------------------------


def rows(benchmark: Benchmark, seen: Collection[WordPair] = ()) -> list[Row]:
    """A row for each score of a benchmark, without a model. ``seen``: pairs of neighbouring words in training captions.

    ``all tied``: the score of a model whose cosines are all the same. ``shortest`` and ``longest``: of one that prefers
    the caption with the fewest or most words, and draws among equals. ``blind``: of ``blind.worded``.
    ``true seen``, ``false seen``: share of true (false) captions whose word pairs that are in no false (true) caption
    of the item are all ``seen``; ``most seen``: the score of a model that prefers the largest share of pairs seen.
    """
    items = benchmark.items
    texts = [blind.texts(item) for item in items]
    tied = blind.outcomes(benchmark, items, [np.zeros(len(item.captions)) for item in items])
    shown = headlines([metric.name for metric in benchmark.metrics])
    metrics = [m for m in benchmark.metrics if m.name in shown and m.outcome != rules.WITHOUT_IMAGES]
    order_N = order_only(benchmark, items)
    columns = {"all tied": tied, ORDER_ONLY: masked(tied, dict.fromkeys(tied, order_N))}
    if compares_captions(benchmark):
        values = {"longest": blind.lengths(items), "blind": blind.worded(items, benchmark.true_captions)}
        values["shortest"] = [-lengths_C for lengths_C in values["longest"]]
        if seen:
            values["most seen"] = [np.array([_share_seen(text, seen) for text in of_item]) for of_item in texts]
            sides = (slice(None, benchmark.true_captions), slice(benchmark.true_captions, None))
            for name, own, other in (("true seen", *sides), ("false seen", *reversed(sides))):
                all_seen_N = np.array([_all_seen(of_item[own], of_item[other], seen) for of_item in texts])
                columns[name] = {one: np.where(np.isnan(tied_N), np.nan, all_seen_N) for one, tied_N in tied.items()}
        for name, of_items in values.items():
            rng = np.random.default_rng(0)
            columns[name] = blind.outcomes(benchmark, items, [_drawn(values_C, rng) for values_C in of_items])
        columns["blind, order-only"] = masked(columns["blind"], dict.fromkeys(tied, order_N))
    means = {name: benchmark.means(metrics, items, outcomes) for name, outcomes in columns.items()}
    chance = benchmark.guess(items)
    found = []
    ordered = means.pop(ORDER_ONLY)
    for name, score in means["all tied"].items():
        values_of = {column: of_metric[name].value for column, of_metric in means.items() if name in of_metric}
        values_of |= {"chance": chance[name]} if name in chance else {}
        found.append(Row(name, score.count, ordered[name].count if name in ordered else 0, values_of))
    return found


def _drawn(values_C: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The ranks of the values, drawn among equals."""
    drawn_C, ranks_C = rng.permutation(len(values_C)), np.empty(len(values_C))
    ranks_C[drawn_C[np.argsort(values_C[drawn_C], kind="stable")]] = np.arange(len(values_C))
    return ranks_C


def equal_captions(benchmark: Benchmark) -> int:
    """The number of items with a false caption that is also a true one, or a group's two captions the same, but for
    case, spaces and punctuation: no model can be right, but by a tie."""
    true = benchmark.true_captions or 1
    sides = ([_words(text) for text in blind.texts(item)] for item in benchmark.items)
    return sum(any(text in texts[:true] for text in texts[true:]) for texts in sides)


@functools.lru_cache(maxsize=1 << 16)
def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


@functools.lru_cache(maxsize=1 << 16)
def word_pairs(text: str) -> frozenset[WordPair]:
    """Its pairs of neighbouring words."""
    return frozenset(itertools.pairwise(_words(text)))


def _share_seen(text: str, seen: Collection[WordPair]) -> float:
    pairs = word_pairs(text)
    return sum(pair in seen for pair in pairs) / max(len(pairs), 1)


def _all_seen(own: Sequence[str], other: Sequence[str], seen: Collection[WordPair]) -> float:
    """Share of the captions whose pairs that no ``other`` caption has are all seen; NaN if none has such pairs."""
    elsewhere = frozenset().union(*map(word_pairs, other))
    distinct = [pairs for text in own if (pairs := word_pairs(text) - elsewhere)]
    return sum(all(pair in seen for pair in pairs) for pairs in distinct) / len(distinct) if distinct else np.nan


# ---- The page --------------------------------------------------------------------------------------------------------


class Mapped(NamedTuple):
    """A benchmark's ``rows``, the number of its ``equal_captions``, and the digest of its annotation files ("" for a
    prepared dataset)."""

    name: str
    items: int
    equal: int
    sha256: str
    rows: Sequence[Row]


def mapped(benchmark: Benchmark, files: Iterable[Path], seen: Collection[WordPair] = ()) -> Mapped:
    """The map of a benchmark; ``files``: those with its annotations."""
    content = b"".join(path.read_bytes() for path in sorted(files))
    digest = hashlib.sha256(content).hexdigest() if content else ""
    return Mapped(benchmark.name, len(benchmark.items), equal_captions(benchmark), digest, rows(benchmark, seen))


def markdown(found: Sequence[Mapped], columns: Sequence[str] = COLUMNS) -> str:
    """Two tables: the benchmarks and their files, and their scores."""
    files = ([one.name, f"{one.items:,}", f"{one.equal:,}", one.sha256[:12] or "-"] for one in found)
    scores = (
        [
            row.metric,
            f"{row.items:,}",
            f"{row.order_only:,} ({row.order_only / row.items:.2f})",
            *(f"{row.values[column]:.2f}" if column in row.values else "-" for column in columns),
        ]
        for one in found
        for row in one.rows
    )
    return "\n".join(
        [
            *_table(["benchmark", "items", "equal captions", "sha256 of its files"], files),
            "",
            *_table(["score", "items", ORDER_ONLY, *columns], scores),
        ]
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    for line in (head, [":---", *["---:"] * (len(head) - 1)], *lines):
        yield f"| {' | '.join(line)} |"
