"""The report on results: ties by a paired test, published scores only beside the same items, every format."""

import csv
import dataclasses
import datetime
import importlib.metadata
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax import storage
from naturel_jax.benchmarks import rules, zeroshot
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric
from naturel_jax.evaluators import confidence, examples, results, scoring
from naturel_jax.evaluators.examples import Example
from naturel_jax.report import known_scores, page, provenance, published, report, ties, writing
from naturel_jax.report.contents import Report
from naturel_jax.report.tables import Cell
from naturel_jax.training import run_folder
from tests.helpers import benchmark_files as files
from tests.helpers import tiny_config
from tfds_naturel.common import pages
from tfds_naturel.common.errors import UserError

METRICS = (Metric("sugarcrepe/swap_obj", "right"), Metric("sugarcrepe/add_obj", "right", where=("kind", "a")))


def items_of(number: int) -> tuple[Item, ...]:
    return tuple(
        Item(str(n), (Image(f"i{n}", bytes),), (f"a cat {n}", f"a dog {n}"), {"kind": "ab"[n % 2]})
        for n in range(number)
    )


def save(
    out: Path,
    model: str,
    right: np.ndarray,
    name: str = "sugarcrepe",
    problems: tuple[str, ...] = (),
    metrics: tuple[Metric, ...] = METRICS,
    first: int = 0,
) -> None:
    """Saves the result of a model that is right on the items where ``right`` is true. They are called 0, 1 and so on,
    from the number ``first`` on."""
    items = tuple(dataclasses.replace(item, id=str(n)) for n, item in enumerate(items_of(first + len(right))[first:]))
    metrics = tuple(dataclasses.replace(m, name=m.name.replace("sugarcrepe", name)) for m in metrics)
    benchmark = Benchmark(name, items, rules.pair, metrics, problems=problems, true_captions=1, chance=rules.PAIR)
    matrices = [np.array([[0.3, 0.2] if is_right else [0.2, 0.3]]) for is_right in right]
    norms = {caption: 1.0 for item in items for caption in item.captions}
    scoring.save(out, model, benchmark, "f", (items, matrices, []), norms)


def rows_of(right: np.ndarray) -> ties.Items:
    return {
        str(n): {"id": str(n), "images": [f"i{n}"], "tags": {}, "weight": 1.0, "outcome/right": float(value)}
        for n, value in enumerate(right)
    }


def best_of(*names: str, **models: np.ndarray) -> set[tuple[str, str]]:
    """The best of ``models``, given by what they are right on, in the metrics ``names``."""
    shares = {model: Cell(float(right.sum() / max(len(right), 1))) for model, right in models.items()}
    scored = {
        name: {model: ties.Scored(share, Metric(name, "right")) for model, share in shares.items()} for name in names
    }
    return ties.best(scored, {model: rows_of(right) for model, right in models.items()})


def test_difference_is_that_of_paired_proportions():
    """The bootstrap's interval is Wald's for paired proportions (Agresti 2013, equation 11.2)."""
    rng = np.random.default_rng(0)
    a = rng.random(2000) < 0.7
    b = np.where(rng.random(2000) < 0.9, a, ~a)
    only_a, only_b, n = np.sum(a & ~b), np.sum(b & ~a), len(a)
    error = math.sqrt(only_a + only_b - (only_a - only_b) ** 2 / n) / n
    low, high = ties.differences(rows_of(a), rows_of(b), [Metric("m", "right")])["m"]
    middle = (only_a - only_b) / n
    assert (low, high) == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=2e-3)


def test_pairing_tells_apart_what_intervals_do_not(monkeypatch):
    """0.50 and 0.54 of 400 items have intervals of +-0.05, but the second is right wherever the first is. The items are
    resampled once for all metrics of two models, since a report of elsewhere may name any number."""
    first, second = np.arange(400) < 200, np.arange(400) < 216
    other = np.roll(second, 200)
    intervals, asked = confidence.intervals, []

    def counted(benchmark, *rest):
        asked.append(len(benchmark.metrics))
        return intervals(benchmark, *rest)

    monkeypatch.setattr(confidence, "intervals", counted)
    assert best_of("m", "n", "o", a=first, b=second) == {("b", "m"), ("b", "n"), ("b", "o")}
    assert asked == [3]
    assert best_of("m", a=first, b=other) == {("a", "m"), ("b", "m")}
    assert best_of("m", a=first, b=first) == {("a", "m"), ("b", "m")}
    assert best_of() == set()
    less = "hard_positives_swap/brittleness"  # is better
    assert best_of(less, "m", a=first, b=second) == {("a", less), ("b", "m")}


def test_best_is_on_the_items_that_all_models_have():
    """A was scored on the first 200 items, which are easy: its 0.85 are less than B's 0.95 there, and more than B's
    0.6 of all."""
    easy = np.arange(200) < 170
    models = {"a": easy, "b": np.concatenate([np.arange(200) < 190, np.arange(200) < 50])}
    assert best_of("m", **models) == {("b", "m")}
    assert best_of("m", **models, none=easy[:0]) == set()


def test_report_marks_the_best_in_every_format(tmp_path):
    for model, number in {"CLIP": 100, "A|<b>": 240, "tied": 241}.items():
        save(tmp_path, model, np.arange(400) < number)
    text = report.write(tmp_path)
    lines = {line.split("|")[1].strip(): line for line in text.replace("\\|", "/").splitlines() if line.startswith("|")}
    assert "**" not in lines["CLIP"] and lines["tied"].count("**") == 4 and "±0.05" in lines["tied"]
    assert "*longer caption*" in lines and "*text norm of CLIP*" in lines and "*chance*" in lines
    assert "Bold: the best score" in text and "published" not in text
    tex, page = ((tmp_path / f"report.{suffix}").read_text() for suffix in ("tex", "html"))
    assert tex.count(r"\textbf{") == page.count("<strong>") == text.count("**0.")
    assert "A|&lt;b&gt;" in page and "<b>" not in page and "http" not in page.replace("http-equiv", "")
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    (swap,) = [r for r in rows if (r["model"], r["metric"]) == ("tied", "sugarcrepe/swap_obj")]
    assert float(swap["low"]) < float(swap["value"]) == 241 / 400 < float(swap["high"]) and swap["count"] == "400"
    assert {r["kind"] for r in rows} == {"measured", "blind", "chance"}
    (tied,) = (json.loads(path.read_text()) for path in (tmp_path / "clip_benchmark").glob("*swap_obj*+tied+*"))
    assert (tied["dataset"], tied["metrics"]) == ("sugar_crepe/swap_obj", {"acc": 241 / 400})
    assert "Agreement between models" in page and "| CLIP | – | 0.65 |" in (tmp_path / "report.md").read_text()  # noqa: RUF001


def test_best_of_each_relation_is_bold_in_every_format(tmp_path):
    metrics = tuple(Metric(f"sugarcrepe/relation/{kind}_x", "right", where=("kind", kind)) for kind in "ab")
    for model, right in {"CLIP": np.arange(40) % 2 == 0, "NegCLIP": np.arange(40) >= 0}.items():  # on "a"; on all
        save(tmp_path, model, right, "vg_relation", metrics=metrics)
    report.write(tmp_path)
    text, tex, page = ((tmp_path / f"report.{suffix}").read_text() for suffix in ("md", "tex", "html"))
    assert "| a_x | 20 | **1.00** ±0.00 | **1.00** ±0.00 |\n| b_x | 20 | 0.00 ±0.00 | **1.00** ±0.00 |" in text
    assert r"b\_x & 20 & 0.00 {\scriptsize \textpm{}0.00} & \textbf{1.00} {" in tex and r"\midrule" in tex
    bounds = "<small>{0}&ndash;{0}</small></td>"
    low, high = (f'<td class="{side}" style="--heat:100%">' for side in ("low", "high"))
    row = f"{low}0.00{bounds.format('0.00')}{high}<strong>1.00</strong>{bounds.format('1.00')}"
    assert f'<tr><th scope="row">b_<wbr>x</th><td>20</td>{row}</tr>' in page
    assert "Bold: the best score of a row" in text and "Bold: the best score of a row" in page


def test_items_of_a_file_that_has_changed_are_not_compared_by_their_ids(tmp_path):
    """A line was removed from the file between the evaluations: all models are right on the same items."""
    right = np.arange(400) % 3 > 0
    save(tmp_path, "A", right)
    save(tmp_path, "B", right[1:], first=1)
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "B on sugarcrepe: 399 items have the ids of other models' items, but other images, captions or" in text
    assert "Agreement between models" not in text


def test_other_photos_and_prompts_are_not_compared_by_their_ids(tmp_path):
    """Of classes, whose ids are running numbers, with more captions than are saved."""
    captions = tuple(f"a photo of {n}" for n in range(65))
    changed = {"moved": ("b", 0, captions), "photo": ("a", 1, captions), "prompts": ("a", 0, captions[::-1])}
    for model, (folder, first, prompts) in {"A": ("a", 0, captions), **changed}.items():
        photos = [Image(f"{folder}/{n + first}.png", bytes) for n in range(4)]
        items = tuple(Item(str(n), (photo,), prompts, {"label": "0"}) for n, photo in enumerate(photos))
        benchmark = Benchmark("birds", items, zeroshot.outcomes, (Metric("birds/top1", "top1"),))
        scoring.save(tmp_path, model, benchmark, "f", (items, [np.eye(1, 65)] * 4, []), {})
    report.write(tmp_path)
    left_out = re.findall(r"(\w+) on birds: 4 items have the ids of other", (tmp_path / "report.md").read_text())
    assert left_out == ["photo", "prompts"]


def test_published_scores_need_the_same_items_not_the_same_name(tmp_path, monkeypatch):
    save(tmp_path, "CLIP", np.arange(40) < 20)
    assert "poster" not in report.write(tmp_path), "a twin is not the benchmark, whatever the model is called"
    for others in (published.ItemSet(40), published.ItemSet(40, published.digest([("0", ["a cat"])]))):
        monkeypatch.setitem(published.ITEM_SETS, "sugarcrepe", others)
        assert "poster" not in report.write(tmp_path), "as many items, which are not known to be the same"
    official = published.digest((item.id, item.captions) for item in items_of(40))
    monkeypatch.setitem(published.ITEM_SETS, "sugarcrepe", published.ItemSet(40, official))
    text = report.write(tmp_path)
    assert "*CLIP (NatuRel poster)*" in text and "In italics, with a source" in text
    row = next(line for line in text.splitlines() if "*NegCLIP B/32 (arXiv 2406.09388)*" in line)
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["0.76", "0.90"]
    save(tmp_path, "CLIP", np.arange(40) < 20, problems=("symmetric relations count too",))
    assert "poster" not in report.write(tmp_path), "the same items by another rule"
    save(tmp_path, "CLIP", np.arange(39) < 20)
    assert "poster" not in report.write(tmp_path)


def test_known_scores_are_shown_beside_those_of_the_same_items(tmp_path, monkeypatch):
    monkeypatch.setattr(known_scores, "conventions", lambda source: ("clip", "activation gelu"))
    items = published.ItemSet(40, published.digest((item.id, item.captions) for item in items_of(40)))
    scores = {"sugarcrepe/swap_obj": 0.5, "sugarcrepe/add_obj": 1.0, "winoground/text": 0.3}
    known = published.Checkpoint("CLIP B/32", "hf:owner/clip", scores, "a paper", {"sugarcrepe": items})
    (benchmark,) = [Benchmark("sugarcrepe", items_of(1), rules.pair, METRICS)]

    def shown(source: str, right: np.ndarray) -> str:
        save(tmp_path, "A", right)
        return known_scores.report(tmp_path, "A", source, [known], [benchmark], "files")

    half = np.arange(40) // 2 % 2 == 0  # half of all, and of those of either kind
    text = shown("hf:owner/clip", half)
    assert "Known scores of CLIP B/32 (a paper), which A is by its source, hf:owner/clip:" in text
    assert "| sugarcrepe/swap_obj | 0.5000 | 0.5000 |" in text and "| 0 of 40 | as known |" in text
    assert "| sugarcrepe/add_obj | 1.0000 | 0.5000 |" in text and "| 10 of 20 | off |" in text
    assert "winoground" not in text, "not measured"
    assert "WARNING: A is off its known scores on sugarcrepe. hf:owner/clip was read as clip: activation gelu." in text
    assert "\n- activation: quick_gelu for OpenAI's weights" in text and "padding" not in text
    assert "--models A=hf:owner/clip --benchmarks sugarcrepe --benchmarks_dir files" in text
    text = shown("hf:owner/clip", np.arange(40) % 4 != 3)  # all of add_obj, 3/4 of swap_obj
    assert "| sugarcrepe/add_obj | 1.0000 | 1.0000 |" in text and text.count("WARNING") == 1
    scores["sugarcrepe/swap_obj"] = 0.72
    text = shown("hf:owner/clip", np.arange(40) % 4 != 3)
    assert "| within the interval |" in text and "WARNING" not in text
    known.items["sugarcrepe"] = published.ItemSet(40)
    for share, verdict in ((0.72, "within the interval"), (0.1, "off or other items")):
        scores["sugarcrepe/swap_obj"] = share
        text = shown("hf:owner/clip", np.arange(40) % 4 != 3)
        assert f"| {verdict}: its items were only counted: no digest is known |" in text
        assert text.count("WARNING: A is off its known scores on sugarcrepe.") == (share == 0.1)
    assert shown("hf:owner/clip", half[:39]) == "", "other items"
    assert shown("hf:owner/another", half) == shown("run:runs/clip", half) == ""


def test_damaged_items_only_cost_the_marks(tmp_path):
    for model in ("a", "b"):
        save(tmp_path, model, np.arange(40) < 20)
    (results.folder_of(tmp_path, "a", "sugarcrepe") / "items.parquet").write_bytes(b"cut short")
    text = report.write(tmp_path)
    assert "0.50 ±" in text and "**0." not in text


def test_curves_are_in_the_report(tmp_path, monkeypatch):
    save(tmp_path / "results", "CLIP", np.arange(40) < 20, "naturel")
    run = record(tmp_path / "run", 0.5, 0.75)
    read, paths = storage.read_json_lines, []
    monkeypatch.setattr(storage, "read_json_lines", lambda path: [paths.append(path), read(path)][1])
    report.write(tmp_path / "results", {"CLIP": [run]})
    assert paths == [run / "metrics.jsonl"]
    assert "](accuracy.png)" in (tmp_path / "results/report.md").read_text()
    assert (tmp_path / "results/loss.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "results/report.html").read_text()
    drawn = re.findall(r'<h2>([^<]*)</h2><div class=beside><figure><svg aria-label="[^"]{20,}" role="img"', page)
    assert drawn == ["Training loss", "Accuracy during training"]
    assert "<title>Evaluation of CLIP on 1 benchmark</title>" in page
    both = report.with_runs(Report([]), {"CLIP": [run, record(tmp_path / "other", 0.25)]})
    assert [of_run[-1][1] for of_run in both.histories["CLIP"]] == [{"naturel/simple": 0.75}, {"naturel/simple": 0.25}]
    assert both.losses == {"CLIP": [[(1, 3.0), (2, 2.0)]] * 2}


def record(path: Path, *scores: float) -> epath.Path:
    """A run's folder with two losses, and these scores one step after another."""
    (run := epath.Path(path)).mkdir()
    lines = [{"step": n, "train/loss": 4.0 - n} for n in (1, 2)]
    lines += [{"step": n, "naturel/simple": score} for n, score in enumerate(scores)]
    storage.write(run / "metrics.jsonl", "".join(storage.sealed(line) + "\n" for line in lines))
    return run


def test_nothing_evaluated_is_said(tmp_path):
    assert report.write(tmp_path) == ""
    assert "<title>Evaluation of no model</title>" in (tmp_path / "report.html").read_text()


def example(benchmark: str, id: int, right: bool) -> Example:
    image = pages.data_uri("png", files.png(id))
    return Example(benchmark, str(id), right, (image,), (f"<b>{id}</b>", "no"), (0.25, -0.5), 1)


def test_examples_of_all_models_and_benchmarks_are_shown_once():
    of_models = {
        model: [example(benchmark, n, right) for n in range(9) for benchmark in "abc" for right in (True, False)]
        for model in ("CLIP", "NegCLIP", "SigLIP")
    }
    picked = page.pick(of_models)
    assert [one.right for _, one in picked] == [True] * 12 + [False] * 12
    assert {model for model, _ in picked[:12]} == {model for model, _ in picked[12:]} == set(of_models)
    assert {one.benchmark for _, one in picked[:6]} == set("abc")
    assert len({(one.benchmark, one.id, one.right) for _, one in picked}) == 24
    assert page.pick({"CLIP": []}) == []


def test_page_stands_alone(tmp_path):
    """What was run, on what, with which changes; examples with their images; nothing that is loaded."""
    save(tmp_path / "results", "<b>", np.arange(40) < 20)
    folder = results.folder_of(epath.Path(tmp_path / "results"), "<b>", "sugarcrepe")
    examples.write(folder, [example("sugarcrepe", 1, True), example("sugarcrepe", 2, False)])
    run, raw = epath.Path(tmp_path / "run"), tiny_config.get_config()
    (run / "trained_on").mkdir(parents=True)
    raw.optim.lr, raw.eval.naturel, raw.eval.benchmarks = 0.125, "naturel/scenes", ("winoground", "naturel")
    run_folder.write_config(run, c.load(raw))
    storage.write_json(run / "trained_on" / "trained_on.json", {"images": 1234, "read": 1234, "xxh3": "abc"})
    began = datetime.datetime.now(datetime.UTC)
    report.write(tmp_path / "results", runs={"<b>": [run]})
    text = (tmp_path / "results/report.html").read_text()
    dates = re.findall(r"<td>(\d{4}-\d\d-\d\d)", text)
    assert {*dates} <= {f"{day:%Y-%m-%d}" for day in (began, datetime.datetime.now(datetime.UTC))} and dates
    for expected in (
        f'<tr><th scope="row">optim.lr</th><td>{c.Optim().lr}</td><td>0.125</td></tr>',
        f"<td>jax {importlib.metadata.version('jax')}, jaxlib",
        f"<td>{importlib.metadata.version('naturel_jax')}",
        "The items of naturel, winoground are drawn scenes with captions, in the form of the published files: ",
        "1,234 images; bytes of 1,234 read, digest abc.",
        '<b class="right">✓ right</b> <small>&lt;b&gt;, sugarcrepe, 1</small>',
        "<li>&lt;b&gt;2&lt;/b&gt; <small>true 0.250</small></li><li>no <small>false -0.500</small></li>",
    ):
        assert expected in text, expected
    assert text.count('alt="Image 1 of item') == 2 and "http" not in text.replace("http-equiv", "")


def test_runs_without_intervals_and_items_have_the_same_tables(tmp_path):
    scores = {"CLIP": {"naturel/simple": 0.5, "winoground/text": 0.25}, "NegCLIP": {"naturel/simple": 0.75}}
    scores["CLIP"]["naturel/complex/relation/on"] = 0.5  # not drawn: nobody knows its interval
    intervals = {"CLIP": {}, "NegCLIP": {"naturel/simple": (0.65, 0.85)}}
    text = writing.save(epath.Path(tmp_path), report.of_runs(scores, intervals))
    assert "| NegCLIP |     0.75 ±0.10 |                     – |" in text  # noqa: RUF001
    assert "| CLIP    |           0.50 |                  0.25 |" in text and "Bold" not in text
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.tex", "report.html", "scores.csv"}


def sealed(**fields: object) -> str:
    """A line, or a file, with these fields."""
    return storage.sealed(fields) + "\n"


def edited(text: str, **fields: object) -> str:
    """A sealed file with other fields, sealed again."""
    return sealed(**storage.unsealed(json.loads(text)) | fields)


def without(text: str, name: str) -> str:
    """A sealed file without a field, sealed again."""
    return sealed(**{key: value for key, value in storage.unsealed(json.loads(text)).items() if key != name})


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda text: text[:-9], "not readable as JSON"),
        ("config.json", "[1]", "not readable as JSON"),
        ("config.json", sealed(), "KeyError: 'config'"),
        ("config.json", sealed(config=[]), "AttributeError"),
        ("config.json", sealed(config={"version": "x"}), "version 'x'; .* install the one"),
        ("config.json", sealed(config={"version": 3, "optim": {"lr": "x"}}), r"optim.lr is 'x'"),
        ("config.json", lambda text: edited(text, versions=["jax"]), "AttributeError"),
        ("config.json", lambda text: edited(text, made_by=[1]), "not what a run writes"),
        ("config.json", lambda text: without(text, "made_by"), "KeyError: 'made_by'"),
        ("config.json", lambda text: edited(text, extended=[{"step": 4}]), "KeyError: 'same_rates'"),
        ("data.json", "[]", "not readable as JSON"),
        ("data.json", sealed(main=["records"]), "TypeError"),
        ("data.json", sealed(main={"records": "many"}), "ValueError"),
        ("trained_on/trained_on.json", sealed(images={}, read=1), "TypeError"),
        ("trained_on/trained_on.json", sealed(images=1, read=1), "KeyError: 'xxh3'"),
        ("metrics.jsonl", sealed(step=1, wall_time=1e300), "not what a run writes"),
        ("metrics.jsonl", sealed(step=1, **{"naturel/simple": "x"}), "simple of step 1 is 'x', expected a number"),
        ("metrics.jsonl", sealed(step=1, **{"naturel/simple": 10**400}), "expected a number"),
    ],
)
def test_damaged_files_of_a_run_are_named(tmp_path, file, change, message):
    run = epath.Path(tmp_path)
    (run / "trained_on").mkdir()
    run_folder.write_config(run, c.load(tiny_config.get_config()))
    content = change if isinstance(change, str) else change((run / file).read_text())
    (run / file).write_text(content)
    with pytest.raises(UserError, match=f"{file}: .*{message}"):
        report.with_runs(Report([]), {"tiny": [run]})


def test_a_run_that_became_longer_is_said_to_have(tmp_path):
    run_folder.write_config(run := epath.Path(tmp_path), c.load(tiny_config.get_config()))
    rows = [{"step": 4, "duration": "4 steps", "same_rates": same} for same in (True, False)]
    (run / "config.json").write_text(edited((run / "config.json").read_text(), extended=rows))
    _, config, _ = provenance.sections({"tiny": provenance.RunFolder(run, None)})
    said = [line for line in config.text if "longer" in line]
    assert said == ["tiny became longer: until step 4, its learning rate was that of 4 steps."]


def test_a_step_beyond_all_numbers_of_steps_is_refused(tmp_path):
    """Matplotlib ended in a traceback."""
    (tmp_path / "metrics.jsonl").write_text(sealed(**{"step": 10**400, "train/loss": 1}))
    with pytest.raises(UserError, match=r"metrics.jsonl line 1: .* is not a JSON object with a step"):
        report.with_runs(Report([]), {"tiny": [epath.Path(tmp_path)]})
