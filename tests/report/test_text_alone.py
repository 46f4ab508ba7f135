"""The row of readers who see no image, against their answers and the proof that counts them."""

import csv
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax.benchmarks import naturel_pairs, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric
from naturel_jax.checkpoints import finished
from naturel_jax.cli.sweeps import grids
from naturel_jax.cli.sweeps import table as sweep_table
from naturel_jax.evaluators import results, scoring
from naturel_jax.report import report, text_alone
from naturel_jax.training import run_folder
from tests.helpers import tiny_config
from tests.helpers.open_images_files import build_dataset, write_world
from tests.helpers.worlds import ROOT
from tfds_naturel.audit import __main__ as audit
from tfds_naturel.captions import bank

READ = ROOT / "proofs" / "readers"
FILE = Path(text_alone.__file__).with_name("text_alone.tsv")
METRICS = (
    Metric("naturel/complex", "right", where=("kind", "complex")),
    *(Metric(f"naturel/complex/mirrored/{v}", "right", where=("complex mirrored", v)) for v in ("yes", "no")),
    Metric("naturel/complex/relation/on", "right", where=("complex relation", "on")),
)

ON = ("A photo of a girl on a bench.", "A photo of a girl next to a bench.", "Girl|on|Bench", "no")


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def chosen():
    """(true caption, false caption, relation, mirrored, share of the readers who were right) of each pair."""
    answers = [{row["item"]: row["answer"] for row in table(path)} for path in sorted(READ.glob("reader_*.tsv"))]
    for row in table(READ / "key.tsv"):
        if row["question"] == "choice":
            both = (row["first"], row["second"])[:: 1 if row["label"] == "1" else -1]
            right = sum(of_reader[row["item"]] == row["label"] for of_reader in answers) / len(answers)
            yield *both, row["relation"], row["mirrored"], right


def save(out, pairs, name="naturel"):
    """The result of a model on (true, false, triplet, mirrored) pairs."""
    items = []
    for n, (true, false, triplet, mirrored) in enumerate(pairs):
        tags = {"kind": "complex", "complex triplet": triplet, "complex mirrored": mirrored, "complex relation": "on"}
        items.append(Item(str(n), (Image(f"i{n}", bytes),), (true, false), tags))
    items.append(Item("simple", (Image("s", bytes),), ("a cat", "no cat"), {"kind": "simple"}))
    benchmark = Benchmark(name, tuple(items), rules.pair, METRICS, true_captions=1, chance=rules.PAIR)
    norms = {caption: 1.0 for item in items for caption in item.captions}
    return scoring.save(out, "CLIP", benchmark, "f", (items, [np.array([[0.2, 0.1]])] * len(items), []), norms)


def row_of(out):
    report.write(out)
    rows = csv.DictReader((out / "scores.csv").read_text().splitlines())
    return {row["metric"]: row for row in rows if row["model"] == text_alone.NAME}


def in_bank():
    """(true, false) -> the triplet, of the bank's complex pairs in all wordings."""
    sides = defaultdict(dict)
    for row in table(Path(bank.__file__).with_name("bank.tsv")):
        if row["kind"] == "complex":
            sides[row["triplet"], row["pair"], row["paraphrase"]][row["polarity"]] = row["text"]
    return {(both["positive"], both["negative"]): triplet for (triplet, *_), both in sides.items()}


def test_the_shares_are_those_of_the_readers_files(tmp_path):
    shutil.copytree(READ, tmp_path / "readers")
    files = sorted(map(str, (tmp_path / "readers").glob("reader_*.tsv")))
    audit.main(["--readers", str(tmp_path / "readers"), "--score", *files])
    assert (tmp_path / "readers" / "text_alone.tsv").read_bytes() == FILE.read_bytes()
    cells = defaultdict(list)
    for *_, relation, mirrored, right in chosen():
        cells[mirrored, relation].append(right)
    few = {cell for cell, shares in cells.items() if len(shares) < 10}
    for mirrored in ("yes", "no"):
        cells[mirrored, "other"] = [right for cell in sorted(few) if cell[0] == mirrored for right in cells[cell]]
    rows = {(row["mirrored"], row["relation"]): row for row in table(FILE)}
    assert rows.keys() == cells.keys() - few and few
    for cell, row in rows.items():
        assert int(row["pairs"]) == len(cells[cell]) >= 10
        assert float(row["share"]) == pytest.approx(np.mean(cells[cell]), abs=1e-4)


def test_on_what_they_read_they_score_what_they_did(tmp_path):
    """Cells of the pairs themselves lose nothing: the row is what proofs/readers.md has. With another edition of the
    bank, which has not all of the pairs, ask readers again."""
    known = in_bank()
    save(tmp_path, [(*both, known[tuple(both)], mirrored) for *both, _, mirrored, _ in chosen()])
    proof = (ROOT / "proofs" / "readers.md").read_text()
    row = row_of(tmp_path)
    assert row.keys() == {"naturel/complex", "naturel/complex/mirrored/yes", "naturel/complex/mirrored/no"}
    for metric, name in (("", "all"), ("/mirrored/yes", "mirrored: yes"), ("/mirrored/no", "mirrored: no")):
        number, share = re.search(rf"\| {name} \| (\d+) \| ([\d.]+) ", proof).groups()
        found = row[f"naturel/complex{metric}"]
        assert float(found["value"]) == pytest.approx(float(share), abs=1e-3)
        assert found["count"] == number and found["kind"] == "blind"
    text = (tmp_path / "report.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("| *readers without the image*"))
    assert "0.89 ±" in line and "Readers without the image: how many" in text
    assert "readers without the image" in (tmp_path / "report.html").read_text()


def test_pairs_count_as_often_as_they_are_evaluated(tmp_path):
    """A pair of `on` (43 of 43 right) twice and one of `is` that is mirrored, by their texts, whatever the photos of
    the split show; for one cell, the interval is Wilson's."""
    mirrored = {both: t for both, t in in_bank().items() if t == "Chair|is|Wooden" and "plastic" in both[1]}
    (true, false), triplet = next(iter(mirrored.items()))
    right = [right for *_, relation, m, right in chosen() if (relation, m) == ("is", "yes")]
    save(tmp_path, [ON, ON, (true, false, triplet, "yes")])
    row = row_of(tmp_path)
    assert float(row["naturel/complex"]["value"]) == pytest.approx((2 + np.mean(right)) / 3, abs=1e-4)
    assert float(row["naturel/complex/mirrored/yes"]["value"]) == pytest.approx(np.mean(right), abs=1e-4)
    alone = [float(row["naturel/complex/mirrored/no"][name]) for name in ("value", "low", "high")]
    assert alone == pytest.approx([1, 43 / (43 + 1.96**2), 1], abs=1e-4)
    below = 2 / 3 * (1 - alone[1]), (float(row["naturel/complex/mirrored/yes"]["low"]) - np.mean(right)) / 3
    assert float(row["naturel/complex"]["low"]) == pytest.approx((2 + np.mean(right)) / 3 - np.hypot(*below), abs=1e-4)


def test_sweeps_have_the_row_too(tmp_path):
    scores = {name: score["value"] for name, score in save(tmp_path / "run" / results.FOLDER, [ON]).scores.items()}
    request = {"config": {}, "duration": "1 steps", "benchmarks": {}}
    finished.write(epath.Path(tmp_path / "run"), finished.Saved(finished.Finished(scores, {}, {}, {}, {}), request))
    planned = grids.Planned("run", "run", 0, c.load(tiny_config.get_config()), "command")
    run_folder.write_config(epath.Path(tmp_path / "run"), planned.config)
    text = sweep_table.write(tmp_path, [planned], "naturel/complex", "run")
    assert f"| *{text_alone.NAME}* " in text and "1.00 ±0.04" in text  # half of 1.96**2 / (42 + 1.96**2)


@pytest.mark.parametrize(("others", "shown"), [(2, True), (3, False)])
def test_there_is_no_row_for_another_bank(tmp_path, others, shown):
    """Up to a tenth of the pairs may be rewritten by the builder."""
    save(tmp_path, [ON] * 20 + [("To get onto the bench,", "To get off it,", "Girl|on|Bench", "no")] * others)
    assert ("naturel/complex" in row_of(tmp_path)) == shown


def test_a_dataset_of_photos_has_the_row(tmp_path):
    """One that is built from annotations in the official form, also for what is held out."""
    dataset = build_dataset(write_world(tmp_path / "open_images"), tmp_path, "--max_missing", 0.1)
    for split, name in (("test", "naturel"), ("test_unseen_triplets", "naturel_unseen")):
        benchmark = naturel_pairs.read(dataset, split, name)
        matrices = [np.array([[0.2, 0.1]])] * len(benchmark.items)
        scoring.save(tmp_path / "out", "CLIP", benchmark, "f", (benchmark.items, matrices, []), defaultdict(float))
    row = row_of(tmp_path / "out")
    assert {"naturel/complex", "naturel_unseen/complex"} <= row.keys() and not any("simple" in name for name in row)


def test_there_is_no_row_for_other_benchmarks(tmp_path):
    save(tmp_path, [ON], name="pairs")
    assert not row_of(tmp_path)
