"""The report on a sweep: a row for each setting, differences from a baseline, the best run."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import sign
from naturel_jax.checkpoints import finished
from naturel_jax.checkpoints.finished import Finished
from naturel_jax.cli.sweeps import runs as runs_lib
from naturel_jax.cli.sweeps.grids import Planned
from naturel_jax.evaluators import examples, results
from naturel_jax.evaluators.examples import Example
from naturel_jax.report import leakage, provenance, report, seeds, text_alone, writing
from naturel_jax.report.contents import Report, Section
from naturel_jax.report.tables import BLIND, MEASURED, Cell, ModelRow
from naturel_jax.storage.locks import locked
from naturel_jax.training import run_folder
from tfds_naturel.common import escape

DIFFERENCES, RUNS = "differences.csv", "runs.csv"  # beside the report

Groups = Mapping[str, Sequence[Planned]]  # row -> its finished runs


def write(out: Path, runs: Sequence[Planned], score: str, baseline: str) -> str:
    """Writes the report on what is finished to ``out``; returns the tables in Markdown, and what
    trained the runs. Processes of one sweep write in turn. Raises UserError for a damaged file."""
    with locked(out / ".report.lock"):
        states = {run.key: runs_lib.state(run, out) for run in runs}
        groups: dict[str, list[Planned]] = {}
        for run in runs:
            if states[run.key] == runs_lib.FINISHED:
                groups.setdefault(run.group, []).append(run)
        done = [run for of_group in groups.values() for run in of_group]
        scores = seeds.read({run.key: seeds.of_run(out / run.key) for run in done})
        differences = _differences(groups, scores, baseline) if baseline in groups else []
        found = {run.key: _finished(out, run) for run in done}
        made = Report(
            [*_rows(groups, scores), *_text_only(found), *_by_readers(out, done), *report.chance_row(scores.chance)],
            left_out=[*_unfinished(runs, states), *scores.left_out],
            trained_on=_trained_on(groups, found),
            seeds={group: len(of_group) for group, of_group in groups.items()},
            ties=[f"{run} on {of}: {ties:,} of {items:,}" for run, of, ties, items in scores.ties if ties],
            sections=[*_difference_section(differences, baseline), *_best(groups, found, score)],
            score=score,
            title=f"Sweep {out.name}: {len(done)} of {len(runs)} runs",
            examples=_examples(out, groups),
        )
        folders = {group: [epath.Path(out / run.key) for run in of_group] for group, of_group in groups.items()}
        text = writing.save(epath.Path(out), report.with_runs(made, folders))
        storage.write(epath.Path(out / DIFFERENCES), escape.table(seeds.Difference._fields, differences))
        storage.write(epath.Path(out / RUNS), _runs_csv(runs, states, scores))
        begun = dict.fromkeys(name for run in done for name in (*run.config.bases, run.key))
        lines = provenance.trained_by(epath.Path(out / name) for name in begun)
    return "\n".join([text, *lines, ""])


def _unfinished(runs: Sequence[Planned], states: Mapping[str, str]) -> list[str]:
    """One line for each setting whose runs are not all finished, and for each run that will not be."""
    of_groups: dict[str, list[str]] = {}
    for run in runs:
        of_groups.setdefault(run.group, []).append(states[run.key])
    lines = [
        f"{group}: {of_group.count(runs_lib.FINISHED)} of {len(of_group)} runs are finished"
        for group, of_group in of_groups.items()
        if set(of_group) != {runs_lib.FINISHED}
    ]
    return lines + [f"{key}: {text}" for key, text in states.items() if text.startswith(("pruned", "failed"))]


def _trained_on(groups: Groups, found: Mapping[str, Finished]) -> list[Section]:
    """The images that may have been trained on, by the first run of each setting."""
    firsts = {group: of_group[0] for group, of_group in groups.items()}
    lines = [run_folder.left_out(found[run.key], group) for group, run in firsts.items()]
    return leakage.sections(list(itertools.chain.from_iterable(lines)))


def _examples(out: Path, groups: Groups) -> dict[str, list[Example]]:
    """Items that the first run of each setting gets right and wrong."""
    places = {group: seeds.of_run(out / of_group[0].key) for group, of_group in groups.items()}
    return {group: examples.load(epath.Path(at.out / results.file_name(at.model))) for group, at in places.items()}


def _finished(out: Path, run: Planned) -> Finished:
    record = finished.read(epath.Path(out / run.key))
    assert record is not None
    return record.finished


def _rows(groups: Groups, scores: seeds.Scores) -> list[ModelRow]:
    cells: dict[str, dict[str, Cell]] = {group: {} for group in groups}
    for metric, scored in scores.scored.items():
        keys = {group: [run.key for run in done if run.key in scored] for group, done in groups.items()}
        settings = {group: [scored[key] for key in of_group] for group, of_group in keys.items() if of_group}
        best, whole = seeds.best(metric, settings), scores.with_trained_on[metric]
        for group, of_group in settings.items():
            known = [whole[key] for key in keys[group] if key in whole]
            cell = seeds.mean(of_group, *scores.counts[metric], known)
            cells[group][metric] = dataclasses.replace(cell, best=group in best)
    return [ModelRow(group, MEASURED, of_group) for group, of_group in cells.items()]


def _text_only(found: Mapping[str, Finished]) -> list[ModelRow]:
    """The row of n-grams, which see no image."""
    cells = {metric: Cell(value) for one in found.values() for metric, value in one.text_only.items()}
    return [ModelRow("n-grams", BLIND, cells)] if cells else []


def _by_readers(out: Path, done: Sequence[Planned]) -> list[ModelRow]:
    """The row of readers who see no image, on the items of the first run."""
    if not done:
        return []
    at, cells = seeds.of_run(out / done[0].key), dict[str, Cell]()
    for result in results.load(at.out):
        if result.model == at.model and result.benchmark in text_alone.BENCHMARKS:
            cells |= text_alone.cells(result, results.load_items(at.out, at.model, result.benchmark))
    return text_alone.row(cells)


def _differences(groups: Groups, scores: seeds.Scores, baseline: str) -> list[seeds.Difference]:
    """Every setting against the baseline, in every score that both have, over the seeds that both have."""
    found = []
    for group, done in groups.items():
        for metric, scored in scores.scored.items() if group != baseline else ():
            sides = [
                {run.seed: scored[run.key] for run in side if run.key in scored} for side in (done, groups[baseline])
            ]
            if common := [seed for seed in sides[0] if seed in sides[1]]:
                pairs = ([side[seed] for seed in common] for side in sides)
                found.append(seeds.difference(group, metric, *pairs, paired=True))
    return seeds.adjust(found)


def _difference_section(differences: Sequence[seeds.Difference], baseline: str) -> list[Section]:
    if not differences:
        return []
    text = [
        "Paired: the same seeds, on the same items. Intervals and p-values are over seeds and images; "
        f"p (Holm) is adjusted for the {len(differences)} rows."
    ]
    if any(one.seeds == "1 paired" for one in differences):
        text.append("Rows with 1 paired show one seed, and do not say how much another would change.")
    return [Section(f"Differences from {baseline}", seeds.HEAD, list(seeds.cells(differences)), text)]


def _best(groups: Groups, found: Mapping[str, Finished], score: str) -> list[Section]:
    """The setting with the best mean, its best run, and the command that trains it again."""
    means = {
        group: sum(found[run.key].scores[score] for run in done) / len(done)
        for group, done in groups.items()
        if all(score in found[run.key].scores for run in done)
    }
    if not means:
        return []
    best = max(means, key=lambda group: sign(score) * means[group])
    run = max(groups[best], key=lambda run: sign(score) * found[run.key].scores[score])
    text = [
        f"{best} has the best mean of {len(means)} settings, {means[best]:.3f} (number of seeds: "
        f"{len(groups[best])}). Its best run is {run.key}, {found[run.key].scores[score]:.3f}. Both were chosen for "
        "being good, so expect less of a new seed."
    ]
    return [Section(f"Best {score}", text=text, command=run.command)]


def _runs_csv(runs: Sequence[Planned], states: Mapping[str, str], scores: seeds.Scores) -> str:
    rows = []
    for run in runs:
        values = [scored[run.key].value if run.key in scored else "" for scored in scores.scored.values()]
        rows.append([run.key, run.group, run.seed, states[run.key], *values, run.command])
    return escape.table(["run", "setting", "seed", "state", *scores.scored, "command"], rows)
