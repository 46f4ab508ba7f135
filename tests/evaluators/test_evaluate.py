"""The command ``naturel_jax.evaluate``: parity with transformers item by item, its output, and invalid arguments."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from naturel_jax import evaluate
from naturel_jax.benchmarks import benchmark, registry
from naturel_jax.data.text.processor import Processor
from naturel_jax.evaluators import embed, fingerprints, results
from naturel_jax.report import compare, published
from tests.helpers import benchmark_files as files
from tests.helpers import hub_server, reference_scores
from tests.helpers.model_files import save_hf
from tests.helpers.worlds import ROOT
from tfds_naturel.common.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A folder with benchmark files and two models."""
    root = tmp_path_factory.mktemp("evaluate")
    files.winoground(root, items=4)
    files.visual_genome(root, items=6)
    files.sugarcrepe(root, items=3)
    for name in ("tiny-clip", "tiny-siglip"):
        save_hf(root / name, name)
    return root


def run(root: Path, out: Path, *models: str, names=("winoground", "vg_relation", "sugarcrepe"), flags=()) -> None:
    flags = [f"--benchmarks_dir={root}", f"--out={out}", "--batch_size=8", *flags]
    evaluate.main([*flags, "--models", *models, "--benchmarks", *names])


def cosines(folder: Path, bench: benchmark.Benchmark) -> list[np.ndarray]:
    """Of each item, as in the benchmarks' scripts: crop, transformers' own processor, both towers, cosine."""
    model = reference_scores.transformers_model(folder)

    def crop(image: benchmark.Image) -> Image.Image:
        whole = Image.open(io.BytesIO(image.read())).convert("RGB")
        return whole.crop(image.box) if image.box else whole

    return [model(list(map(crop, item.images)), item.captions) for item in bench.items]


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-siglip"])
def test_cosines_match_transformers(folders, tmp_path, name):
    run(folders, tmp_path / "out", f"m={folders / name}")
    for bench in registry.read(["winoground", "vg_relation", "sugarcrepe"], files=folders):
        rows = results.load_items(tmp_path / "out", "m", bench.name)
        assert [row["id"] for row in rows] == [item.id for item in bench.items]
        for row, expected in zip(rows, cosines(folders / name, bench), strict=True):
            np.testing.assert_allclose(row["cosines"], expected.ravel(), atol=1e-5)


def test_suites_on_the_same_photos_decode_each_once(folders, tmp_path, monkeypatch):
    """On COCO's val2017: choices, pairs and retrieval, in one command."""
    for write in (files.sugarcrepe, files.sugarcrepe_pp, files.negbench):
        write(tmp_path)
    names = ("sugarcrepe", "sugarcrepe_pp", "negbench_coco", "negbench_coco_retrieval")
    suites = registry.read(names, files=tmp_path)
    photos = [{image.read() for item in suite.items for image in item.images} for suite in suites]
    decoded, image = list[bytes](), Processor.image
    monkeypatch.setattr(Processor, "image", lambda self, data, box=None: decoded.append(data) or image(self, data, box))
    run(tmp_path, tmp_path / "out", f"CLIP={folders / 'tiny-clip'}", names=names)
    assert len(results.load(tmp_path / "out")) == len(names)
    assert sorted(decoded) == sorted(set().union(*photos)) and len(decoded) < sum(map(len, photos))


def test_command_evaluates_each_pair_once_and_writes_reports(folders, tmp_path, capsys, monkeypatch):
    models = [f"CLIP={folders / 'tiny-clip'}", f"A|<b>={folders / 'tiny-siglip'}"]
    run(folders, tmp_path, *models)
    saved = {(r.model, r.benchmark): r for r in results.load(tmp_path)}
    assert len(saved) == 6 and all(r.incomplete and not r.problems for r in saved.values()), "fewer than published"
    text = (tmp_path / "report.md").read_text()
    assert "| *n-grams* " in text and "| *text norm of CLIP* " in text and "| *chance* " in text
    assert "| CLIP " in text and "±" in text and "**" in text and "A\\|\\<b\\>" in text
    assert "poster" not in text, "these are not the items of its scores"
    assert "CLIP on winoground: 4 of 400 published items" in text
    page = (tmp_path / "report.html").read_text()
    assert "A|&lt;b&gt;" in page and "<b>" not in page and page.count("<svg ") == 1
    assert "<title>Evaluation of CLIP and A|&lt;b&gt; on 3 benchmarks</title>" in page
    verdicts = re.findall('class="(right|wrong)">[✓✗] ([a-z]+)</b> <small>([^,]+), ', page)
    assert 12 < len(verdicts) <= 24 and all(style == word for style, word, _ in verdicts), "with their images"
    assert {model for *_, model in verdicts} == {"CLIP", "A|&lt;b&gt;"}
    assert page.count("<img ") >= len(verdicts)
    assert '<th scope="row">longer caption</th>' in page
    latex = (tmp_path / "report.tex").read_text()
    assert latex.count(r"\toprule") == 4 and "Agreement between models" in latex
    assert r"\multicolumn{2}{c}{Winoground (text)}" in latex
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    row = next(r for r in rows if (r["model"], r["metric"]) == ("CLIP", "winoground/text"))
    assert row["kind"] == "measured" and float(row["low"]) <= float(row["value"]) <= float(row["high"])

    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/scores.json")}
    monkeypatch.setattr(embed.Encoder, "images", lambda *_: pytest.fail("a finished pair was embedded again"))
    run(folders, tmp_path, *models)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/scores.json")} == written
    assert "already done" in capsys.readouterr().out

    os.utime(folders / "coco/val2017" / f"{0:012d}.png")
    run(folders, tmp_path, models[0])
    output = capsys.readouterr().out
    assert "CLIP on winoground: already done" in output and "CLIP on vg_relation: already done" in output
    assert "CLIP on sugarcrepe: 21 of" in output, "from cached embeddings: the bytes are the same"
    assert "Without shortcuts" not in output + page

    run(folders, tmp_path, models[0], flags=["--shortcuts"])
    output, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    found = {r.benchmark: r for r in results.load(tmp_path) if r.model == "CLIP"}
    parts = found["winoground"].shortcuts
    order_only = [
        sorted(a.split()) == sorted(b.split())
        for a, b in (i.captions for i in registry.read(["winoground"], files=folders)[0].items)
    ]
    assert parts["order-only"]["winoground/text"]["count"] == sum(order_only)
    assert parts["not solved blind"]["winoground/text"] == found["winoground"].scores["winoground/text"]
    assert "| winoground/text | CLIP | " in output and page.count("Without shortcuts") == 2
    assert "*text embedding of CLIP*" in output
    run(folders, tmp_path, models[0], flags=["--shortcuts", "--galleries"])
    assert capsys.readouterr().out.count("already done") == 3
    page, gallery = (tmp_path / name for name in ("report.html", "galleries/sugarcrepe.html"))
    assert 'galleries/sugarcrepe.html#outcome=right&amp;right=wrong%3ACLIP&amp;group=swap_obj"' in page.read_text()
    assert re.search(r'"models":\[[^]]*"CLIP"[^]]*\].*data:image/png', gallery.read_text())


def test_other_photos_in_an_archive_make_another_fingerprint(tmp_path):
    files.winoground(tmp_path, items=2)
    archive = tmp_path / "winoground" / "images.zip"

    def fingerprint() -> str:
        return fingerprints.of_pair("m", registry.read(["winoground"], files=tmp_path)[0])

    before = fingerprint()
    archive.write_bytes(archive.read_bytes())
    assert fingerprint() == before, "the checksums of its members are the same"
    with zipfile.ZipFile(archive) as old:
        names = old.namelist()
    with zipfile.ZipFile(archive, "w") as new:
        for name in names:
            new.writestr(name, files.png(99))
    assert fingerprint() != before


def test_compare_two_models(folders, tmp_path, capsys):
    run(folders, tmp_path, f"A={folders / 'tiny-clip'}", f"B={folders / 'tiny-siglip'}", names=["winoground"])
    command = ["A", "B", "--out", str(tmp_path), "--benchmark", "winoground", "--benchmarks_dir", str(folders)]
    compare.main([*command, "--outcome", "text"])
    page = tmp_path / "compare" / "A+B+winoground+text.html"
    printed = capsys.readouterr().out
    assert page.with_suffix(".md").read_text("utf-8") in printed and f"gallery: {page}" in printed
    assert "a cat on a box 0" in page.read_text("utf-8")
    assert page.read_text("utf-8").count("data:image/") == 8
    compare.main([*command, "--outcome", "image"])
    assert page.exists() and page.with_name("A+B+winoground+image.html").exists(), "one does not replace the other"
    with pytest.raises(UserError, match="expected one of: text, image, group, matching"):
        compare.main([*command, "--outcome", "right"])
    with pytest.raises(FileNotFoundError, match="evaluate 'A' on 'vg_relation' first"):
        compare.main([*command, "--benchmark", "vg_relation"])


def test_unreadable_images_are_reported_and_retried(folders, tmp_path):
    root = tmp_path / "files"
    files.sugarcrepe(root, items=2)
    good = (root / "coco/val2017/000000000000.png").read_bytes()
    files.write(root / "coco/val2017/000000000000.png", b"broken")
    run(root, tmp_path / "out", f"CLIP={folders / 'tiny-clip'}", names=["sugarcrepe"])
    result = results.load(tmp_path / "out")[0]
    assert (result.items, result.unreadable, result.incomplete) == (11, 3, True)
    assert len(result.problems) == 3 and "000000000000.png: not a readable" in result.problems[0]
    files.write(root / "coco/val2017/000000000000.png", good)
    run(root, tmp_path / "out", f"CLIP={folders / 'tiny-clip'}", names=["sugarcrepe"])
    result = results.load(tmp_path / "out")[0]
    assert (result.items, result.unreadable, result.problems) == (14, 0, ())


def test_a_run_of_a_sweep_needs_no_name():
    """Its folder has an equals sign."""
    source = "run:sweeps/lr=1e-4_seed=0"
    assert evaluate.parse_models([source, f"A={source}"]) == {source: source, "A": source}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--models", "a=x", "a=y"], "each name once"),
        (["--models", "a=nowhere"], "nowhere"),
        (
            ["--models", "a=x", "--benchmarks", "winogrand"],
            r"unknown benchmarks.* \(did you mean 'winoground'\?\); expected all, or any of: naturel",
        ),
        (["--models", "a=x", "--benchmarks", "bivlc"], r"bivlc: contains no \*\.parquet"),
        (["--models", "a=x", "--benchmarks", "naturel"], "naturel needs --naturel, which is not set"),
        (["--models", "a=x", "--batch_size", "0"], "--batch_size is 0, expected 1 to 16,777,216"),
        (["--watch", "x", "--known", "k.json"], "--known is for models, not for --watch; name the run with --models"),
    ],
)
def test_invalid_arguments_are_rejected(folders, tmp_path, arguments, reason):
    with pytest.raises((UserError, OSError), match=reason):
        evaluate.main([*arguments, "--benchmarks_dir", str(folders), "--out", str(tmp_path)])


def test_a_report_of_somebody_else_is_not_replaced(folders, tmp_path):
    (tmp_path / "scores.csv").write_text("mine")
    with pytest.raises(UserError, match=r"no results of these models, but scores\.csv, which .*: use another --out"):
        run(folders, tmp_path, f"CLIP={folders / 'tiny-clip'}")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


@pytest.mark.slow
def test_known_checkpoint_that_is_off_is_warned_of(folders, tmp_path):
    """On a hub, under a name of which scores are known: those that transformers gives one benchmark, and wrong ones of
    another. The same weights from a folder are nobody's."""
    known: dict = {"name": "Tiny", "source": "hf:owner/tiny", "origin": "transformers", "scores": {}, "items": {}}
    for bench in registry.read(["winoground", "sugarcrepe"], files=folders):
        scores = bench.score(bench.items, cosines(folders / "tiny-clip", bench))
        metric = "winoground/text" if bench.name == "winoground" else "sugarcrepe/replace"
        value = scores[metric].value
        known["scores"][metric] = value if bench.name == "winoground" else float(value < 0.5)
        digest = published.digest((item.id, item.captions) for item in bench.items)
        known["items"][bench.name] = {"number": len(bench.items), "digest": digest}
    (tmp_path / "known.json").write_text(json.dumps({"owner/tiny@main": known}))
    flags = [f"--benchmarks_dir={folders}", "--benchmarks", "winoground", "sugarcrepe", f"--out={tmp_path / 'out'}"]
    flags += [f"--known={tmp_path / 'known.json'}", "--models", "A=hf:owner/tiny", f"B={folders / 'tiny-clip'}"]
    hub = hub_server.Hub()
    hub.add("owner/tiny", folders / "tiny-clip")
    with hub_server.serve(hub):
        environment = hub.environment(tmp_path / "cache")
        command = [sys.executable, "-m", "naturel_jax.evaluate", *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Known scores of Tiny (transformers), which A is by its source, hf:owner/tiny:") == 1
    assert "Known scores" not in done.stdout.partition("B on winoground")[2]
    lines = {
        line.split(" | ")[0]: line for line in done.stdout.splitlines() if line.endswith((" as known |", " off |"))
    }
    assert lines["| winoground/text"].endswith(" as known |") and lines["| sugarcrepe/replace"].endswith(" off |")
    (warning,) = re.findall(r"^WARNING: (.*)", done.stdout, re.MULTILINE)
    assert warning.startswith(
        "A is off its known scores on sugarcrepe. hf:owner/tiny was read as clip: activation quick"
    )
    assert "\n- activation: " in done.stdout and "--benchmarks sugarcrepe --benchmarks_dir" in done.stdout
