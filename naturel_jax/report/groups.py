"""Compares two groups of runs on one benchmark, such as the seeds of two settings."""

import fnmatch
import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from naturel_jax.benchmarks.benchmark import Metric, headlines
from naturel_jax.evaluators import results
from naturel_jax.report import seeds
from naturel_jax.report.pairs import GROUP_TAGS
from naturel_jax.report.seeds import Difference, Evaluated, Scores
from tfds_naturel.common import escape
from tfds_naturel.common.errors import UserError

Runs = Mapping[str, Evaluated]  # name -> where its results are


def find(side: str, out: Path) -> dict[str, Evaluated]:
    """The evaluated runs that a side of a comparison names: models in ``out`` or folders of runs, patterns of either,
    separated by commas. Raises UserError for a pattern that matches none."""
    out = out.resolve()
    models = sorted({result.model for result in results.load(out)})
    found: dict[str, Evaluated] = {}
    for part in [side] if side in models else side.split(","):
        names = [part] if part in models else fnmatch.filter(models, part)
        folders = [] if names else sorted(path for path in glob.glob(part) if (Path(path) / results.FOLDER).is_dir())
        found |= {name: Evaluated(out, name) for name in names}
        found |= {path: seeds.of_run(Path(path).resolve()) for path in folders}
        if not (names or folders):
            raise UserError(
                f"{part!r} matches no model in {out} ({', '.join(models) or 'it has none'}) and no folder of a run "
                f"with {results.FOLDER} in it; evaluate it first"
            )
    return dict({run: (name, run) for name, run in found.items()}.values())  # a folder has several paths


def markdown(a: str, b: str, runs_a: Runs, runs_b: Runs, benchmark: str, outcome: str) -> str:
    """The comparison in Markdown: the means of each group in each score, over all items and over those of a relation or
    the like. Raises UserError for a run that was not evaluated, or an unknown outcome."""

    def choose(metrics: Sequence[Metric]) -> set[str]:
        shown = set(headlines(m.name for m in metrics))
        of_outcome = [metric for metric in metrics if metric.outcome == outcome]
        return {m.name for m in of_outcome if m.name in shown or (m.where and m.where[0] in GROUP_TAGS)}

    scores = seeds.read({**runs_a, **runs_b}, choose, benchmark)
    if not scores.scored:
        raise UserError(
            f"no score of {benchmark} is a mean of {outcome!r} in all of these runs; see --outcome, or evaluate all on "
            f"the same files{''.join(f' ({line})' for line in scores.left_out)}"
        )
    lines = [f"# {escape.markdown(f'{b} against {a} on {benchmark}')}", ""]
    for name, runs in ((a, runs_a), (b, runs_b)):
        number, alone = f"{len(runs)} runs", ""
        if len(runs) == 1:
            number, alone = "1 run", ". One seed: nothing here says how much another would change"
        lines.append(f"- {escape.markdown(f'{name}, {number}: ' + ', '.join(runs) + alone)}.")
    lines += ["", "Intervals and p-values are over runs and images; both sides share the images.", ""]
    lines += [f"{escape.markdown(line)}\n" for line in scores.left_out]
    lines += [f"| score | {escape.markdown(a)} | {escape.markdown(b)} | {' | '.join(seeds.HEAD[2:-1])} |"]
    lines += ["| :--- |" + " ---: |" * 6]
    for one in seeds.adjust(_differences(scores, runs_a, runs_b, benchmark)):
        means = [np.mean([scores.scored[one.metric][name].value for name in runs]) for runs in (runs_a, runs_b)]
        _, metric, *cells = next(seeds.cells([one]))
        cells = [escape.markdown(metric), *(f"{mean:.3f}" for mean in means), *cells[:-1]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _differences(scores: Scores, runs_a: Runs, runs_b: Runs, benchmark: str) -> list[Difference]:
    """B minus A in each score. Raises UserError for a run without it."""
    found = []
    for metric, scored in scores.scored.items():
        if missing := [name for name in (*runs_a, *runs_b) if name not in scored]:
            raise UserError(f"{missing[0]} has no {metric}; evaluate it on {benchmark} first")
        of_b, of_a = ([scored[name] for name in runs] for runs in (runs_b, runs_a))
        found.append(seeds.difference("", metric, of_b, of_a, paired=False))
    return found
