"""Compares two models, or two groups of runs, on one benchmark: what one gets right and the other does not, by
relation, and whether that could be chance.

    naturel-compare NegCLIP NegCLIP-AP --out results --benchmark vg_relation

reads the per-item results of ``naturel_jax.evaluate`` and writes ``NegCLIP+NegCLIP-AP+vg_relation+right.md``, and a
gallery of the same name (``.html``), to ``results/compare``.

    naturel-compare 'sweep/lr=1e-4_*' 'sweep/lr=3e-4_*' --benchmark naturel

compares means over runs, such as the seeds of a setting: a side is a model in --out, the folder of a run, a pattern of
either, or several of them separated by commas. Its intervals and p-values count runs and images.
"""

import argparse
import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath
from scipy import stats

from naturel_jax import storage
from naturel_jax.benchmarks import registry
from naturel_jax.config import own_benchmarks
from naturel_jax.evaluators import confidence, results
from naturel_jax.evaluators.mirror import Mirror
from naturel_jax.evaluators.results import OUTCOME
from naturel_jax.report import gallery, groups
from naturel_jax.report.pairs import Judged, judge
from naturel_jax.storage import staging
from tfds_naturel.common import cli, escape
from tfds_naturel.common.errors import UserError

_MOST_GAINS = 20_000  # whose distribution takes a second
EXAMPLES = 10  # captions of each kind that the Markdown lists
_SHARES = (
    "Items can be partly right, so the scores are compared, not how many items each model gets right. The captions "
    "below, and the gallery, are of items that one model gets wholly right and the other does not."
)


@dataclasses.dataclass(frozen=True)
class Counts:
    """A 2 x 2 table of paired outcomes. ``sizes``: how many of the items are of each photo;
    ``gains``: how many more of these B gets right than A."""

    both: int
    only_a: int
    only_b: int
    neither: int
    sizes: np.ndarray
    gains: np.ndarray

    @property
    def items(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def exact(self) -> bool:
        """Whether ``p`` is that of the exact test."""
        return int(np.abs(self.gains).sum()) <= _MOST_GAINS

    @property
    def p(self) -> float:
        """Exact McNemar test (two-sided binomial of the discordant pairs; McNemar 1947), in which the items of a photo
        change sides together: the distribution of the sum of the gains if each has either sign. Of too many for an
        ``exact`` test, its normal approximation, corrected for continuity (the sum has steps of 2)."""
        if not self.exact:
            return min(2 * float(stats.norm.sf((abs(self.gains.sum()) - 1) / np.linalg.norm(self.gains))), 1.0)
        gains, numbers = np.unique(np.abs(self.gains[self.gains != 0]), return_counts=True)
        chances = np.ones(1)  # of each sum, from the smallest
        for gain, number in zip(gains, numbers, strict=True):
            steps = np.zeros(2 * gain * number + 1)
            steps[:: 2 * gain] = stats.binom.pmf(np.arange(number + 1), number, 0.5)
            chances = np.convolve(chances, steps)
        sums = np.arange(len(chances)) - len(chances) // 2
        return min(float(chances[np.abs(sums) >= abs(self.gains.sum())].sum()), 1.0)

    @property
    def difference(self) -> tuple[float, float, float]:
        """Accuracy of B minus that of A with its 95% confidence interval (Wald for paired proportions; Agresti
        2013, section 11.1.2), whose variance is that between photos.
        """
        mean = float(self.gains.sum()) / self.items
        error = math.sqrt(np.square(self.gains - self.sizes * mean).sum()) / self.items
        return mean, mean - 1.96 * error, mean + 1.96 * error

    @property
    def odds_ratio(self) -> float:
        """Items that only B gets right over those that only A gets right."""
        return self.only_b / self.only_a if self.only_a else math.inf if self.only_b else math.nan

    @property
    def g(self) -> float:
        """Cohen's g: how far the discordant pairs are from half and half, -0.5 (all A) to 0.5 (all B)."""
        discordant = self.only_a + self.only_b
        return self.only_b / discordant - 0.5 if discordant else 0.0


def count(judged: Iterable[Judged]) -> Counts:
    """The table of ``judged``, those that share one outcome as one."""
    pairs = {pair.unit: pair for pair in judged}.values()
    both, only_a = sum(p.a and p.b for p in pairs), sum(p.a and not p.b for p in pairs)
    only_b = sum(p.b and not p.a for p in pairs)
    _, photos = np.unique([confidence.first_of(pair.images) or pair.id for pair in pairs], return_inverse=True)
    gains = np.bincount(photos, [int(pair.b) - int(pair.a) for pair in pairs]).astype(int)
    return Counts(both, only_a, only_b, len(pairs) - both - only_a - only_b, np.bincount(photos), gains)


def count_by_group(pairs: Sequence[Judged]) -> dict[str, tuple[Counts, float]]:
    """Group -> (table, p adjusted for the number of groups by Holm's method), largest groups first."""
    groups: dict[str, list[Judged]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    tables = {name: count(members) for name, members in groups.items()}
    adjusted = dict(zip(tables, confidence.holm([table.p for table in tables.values()]), strict=True))
    return {
        name: (tables[name], adjusted[name]) for name in sorted(tables, key=lambda name: (-tables[name].items, name))
    }


def has_shares(rows: Iterable[dict[str, Any]], outcome: str) -> bool:
    """Whether some of ``rows`` of ``items.parquet`` are neither right nor wrong by ``outcome``, but partly right."""
    return any(0 < (row.get(OUTCOME + outcome) or 0) < 1 for row in rows)


def markdown(a: str, b: str, benchmark: str, pairs: Sequence[Judged], further: tuple[int, int] = (0, 0)) -> str:
    """The comparison in Markdown, by the items that each model gets right. ``further``: the number of items that only
    ``a``, and only ``b``, was scored on."""
    table = count(pairs)
    difference, low, high = table.difference
    a, b, benchmark = map(escape.markdown, (a, b, benchmark))
    lines = [
        f"# {b} against {a} on {benchmark}",
        "",
        f"{table.items:,} items: both right {table.both:,}, only {a} {table.only_a:,}, only {b} {table.only_b:,}, "
        f"neither {table.neither:,}.",
        f"Accuracy of {b} minus {a}: {difference:+.4f} (95% CI {low:+.4f} to {high:+.4f}); "
        f"{'exact ' * table.exact}McNemar p = {table.p:.2g}; odds ratio {table.odds_ratio:.2f}; "
        f"Cohen's g {table.g:+.2f}.",
        "One seed: each side is one model, trained once, so nothing here says how much another seed would change.",
    ]
    lines += [
        f"Left out: {more:,} items that only {side} was scored on."
        for side, more in zip((a, b), further, strict=True)
        if more
    ]
    if table.items < len(pairs):
        lines.append(f"Items that share one outcome, such as photos of one set, count once: {len(pairs):,} in all.")
    if len(table.sizes) < table.items:
        lines.append(
            "Items of one photo are not independent, so the interval and the p-values count photos, of which there are "
            f"{len(table.sizes):,}."
        )
    lines += ["", f"| group | items | {a} | {b} | only {a} | only {b} | g | p (Holm) |", "| :--- |" + " ---: |" * 7]
    for name, (t, p) in count_by_group(pairs).items():
        right_a, right_b = (t.both + t.only_a) / t.items, (t.both + t.only_b) / t.items
        cells = (f"{right_a:.2f}", f"{right_b:.2f}", str(t.only_a), str(t.only_b), f"{t.g:+.2f}", f"{p:.2g}")
        lines.append(f"| {escape.markdown(name)} | {t.items} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" + _captions(a, b, pairs)


def _captions(a: str, b: str, pairs: Sequence[Judged]) -> str:
    """Captions that one model gets right and the other does not; the names are escaped."""
    lines: list[str] = []
    for title, chosen in (
        (f"Captions that {a} gets right and {b} does not", [p for p in pairs if p.a and not p.b]),
        (f"Captions that {b} gets right and {a} does not", [p for p in pairs if p.b and not p.a]),
    ):
        lines += ["", f"## {title}", ""]
        distinct = dict.fromkeys(pair.captions[0] for pair in chosen if pair.captions)
        lines += [f"- {escape.markdown(caption)}" for caption in list(distinct)[:EXAMPLES]]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", help="a model in --out, or runs: folders, patterns, several separated by commas")
    parser.add_argument("b", help="what to compare it with")
    parser.add_argument("--out", type=epath.Path, default=epath.Path("results"))
    parser.add_argument("--benchmark", required=True, help="as given to naturel_jax.evaluate")
    own_benchmarks.add_fields(parser)
    parser.add_argument("--outcome", default="right", help="what counts as right, such as text or group on Winoground")
    parser.add_argument("--benchmarks_dir", default="benchmarks_data", help="the official files, for the gallery")
    parser.add_argument("--naturel", help="a prepared TFDS folder, such as data/naturel/full/4.1.0")
    options = parser.parse_args(arguments)
    name, mirror = own_benchmarks.name_of(options.benchmark), Mirror(options.out)
    runs_a, runs_b = (groups.find(side, mirror.local) for side in (options.a, options.b))
    if both := [run for run, place in runs_b.items() if place in runs_a.values()]:
        raise UserError(f"{both[0]} is on both sides; leave it out of one")
    names = map(results.file_name, (options.a, options.b, name, options.outcome))
    page = mirror.local / "compare" / ("+".join(names) + ".html")  # no name contains a "+"
    page.parent.mkdir(parents=True, exist_ok=True)
    sides = options.a, options.b, runs_a, runs_b, name, options.outcome
    if len(runs_a) > 1 or len(runs_b) > 1:
        text = groups.markdown(*sides)
        storage.write(epath.Path(page.with_suffix(".md")), text)
        mirror.publish()
        print(text)
        return
    rows = [results.load_items(*run, name) for runs in (runs_a, runs_b) for run in runs.values()]
    # A tag that items share is called like the outcome that they share.
    pairs = judge(rows, [options.outcome], options.outcome if registry.together(name) else "")
    if not pairs:
        raise UserError(
            f"{options.a} and {options.b} have no item of {name} in common; evaluate both on the same files"
        )
    if has_shares(itertools.chain(*rows), options.outcome):
        text = f"{groups.markdown(*sides)}\n{_SHARES}\n"
        text += _captions(escape.markdown(options.a), escape.markdown(options.b), pairs)
    else:
        ids_a, ids_b = ({row["id"] for row in one} for one in rows)
        text = markdown(options.a, options.b, name, pairs, (len(ids_a - ids_b), len(ids_b - ids_a)))
    files, naturel = staging.stage(options.benchmarks_dir), staging.stage(options.naturel) if options.naturel else None
    fields = own_benchmarks.parse_fields(options.fields)
    (benchmark,) = registry.read([options.benchmark], files=files, naturel=naturel, fields=fields)
    images = {image.key: image for item in benchmark.items for image in item.images}
    gallery.write(page, (options.a, options.b), name, pairs, images, [options.outcome])
    storage.write(epath.Path(page.with_suffix(".md")), text)
    mirror.publish()
    print(f"{text}\ngallery: {options.out / 'compare' / page.name}")


if __name__ == "__main__":
    cli.run(main)
