"""Evaluations on disk: the command, parity with transformers item by item, the cache, confidence intervals."""

import csv
import dataclasses
import io
import json
import math
from pathlib import Path

import benchmark_files as files
import jax
import numpy as np
import pytest
import test_embed
import torch
import transformers
from model_files import hf_model, random_params
from PIL import Image

from naturel_jax import evaluate
from naturel_jax.benchmarks import benchmark, registry, rules
from naturel_jax.data.processor import Processor, train_tokenizer
from naturel_jax.evaluators import blind, cache, confidence, embed, results
from naturel_jax.models.families import FAMILIES
from naturel_jax.models.presets import preset
from naturel_jax.report import compare
from naturel_jax.weights import processor_files

CAPTIONS = ["a cat on a box 0 1 2 3", "the hat with a dog is under the tree", "replace obj att swap add rel"]


def write_model(folder: Path, name: str, seed: int = 0) -> tuple[torch.nn.Module, Processor]:
    """A model with random weights as transformers saves it."""
    config, family = preset(name), "siglip" if "siglip" in name else "clip"
    if family == "clip":  # the tokenizer below has few words and ends with token 1
        config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab=300, eos_id=1))
    tokenizer = train_tokenizer(family, CAPTIONS * 3, 300, config.text.context)
    resize, interpolation = {"clip": ("short", "bicubic"), "siglip": ("square", "bilinear")}[family]
    statistics = {"mean": (0.48, 0.45, 0.40), "std": (0.26, 0.26, 0.27)}
    processor = Processor(
        tokenizer=tokenizer,
        context=config.text.context,
        size=config.image.size,
        resize=resize,
        interpolation=interpolation,
        **statistics,
    )
    model = hf_model(config, random_params(config, seed))
    model.save_pretrained(folder)
    processor_files.write(folder, processor, FAMILIES[family])
    return model, processor


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Benchmark files, and two models."""
    root = tmp_path_factory.mktemp("evaluate")
    files.winoground(root, items=4)
    files.visual_genome(root, items=6)
    files.sugarcrepe(root, items=3)
    for name in ("tiny-clip", "tiny-siglip"):
        write_model(root / name, name)
    return root


def run(root: Path, out: Path, *models: str, names=("winoground", "vg_relation", "sugarcrepe")) -> None:
    evaluate.main(
        [
            "--models",
            *models,
            "--benchmarks",
            *names,
            "--benchmarks_dir",
            str(root),
            "--out",
            str(out),
            "--batch_size",
            "8",
        ]
    )


def torch_cosines(folder: Path, model: torch.nn.Module, item: benchmark.Item) -> np.ndarray:
    """As the benchmarks' scripts do it: crop, transformers' own processor, both towers, cosine."""
    processor = transformers.AutoProcessor.from_pretrained(folder, use_fast=False)
    pictures = [Image.open(io.BytesIO(image.read())).convert("RGB") for image in item.images]
    pictures = [p.crop(image.box) if image.box else p for p, image in zip(pictures, item.images, strict=True)]
    inputs = processor(
        text=list(item.captions), images=pictures, return_tensors="pt", padding="max_length", truncation=True
    )
    with torch.no_grad():
        output = model(**{name: value for name, value in inputs.items() if name in ("input_ids", "pixel_values")})
    return (output.image_embeds @ output.text_embeds.T).numpy()


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-siglip", pytest.param("clip-b32", marks=pytest.mark.slow)])
def test_cosines_equal_those_of_transformers(folders, tmp_path, name):
    model, _ = write_model(tmp_path / "model", name)
    run(folders, tmp_path / "out", f"m={tmp_path / 'model'}")
    for bench in registry.load(["winoground", "vg_relation", "sugarcrepe"], folders):
        rows = results.load_items(tmp_path / "out", "m", bench.name)
        assert [row["id"] for row in rows] == [item.id for item in bench.items]
        for row, item in zip(rows, bench.items, strict=True):
            expected = torch_cosines(tmp_path / "model", model, item)
            np.testing.assert_allclose(row["cosines"], expected.ravel(), atol=1e-5)


def test_the_command_evaluates_each_pair_once_and_reports(folders, tmp_path, capsys, monkeypatch):
    models = [f"CLIP={folders / 'tiny-clip'}", f"A|<b>={folders / 'tiny-siglip'}"]
    run(folders, tmp_path, *models)
    found = {(r.model, r.benchmark): r for r in results.load(tmp_path)}
    assert len(found) == 6 and all(r.incomplete and not r.problems for r in found.values()), "fewer than published"
    text = (tmp_path / "report.md").read_text()
    assert "| *n-grams* | " in text and "| *text norm of CLIP* | " in text
    assert "| CLIP | " in text and "(0.59, " in text and "A\\|<b>" in text
    assert "CLIP on winoground: 4 of 400 published items" in text
    page = (tmp_path / "report.html").read_text()
    assert "A|&lt;b&gt;" in page and "<b>" not in page and page.count("data:image/png;base64,") == 1
    assert "<i>longer caption</i>" in page
    latex = (tmp_path / "report.tex").read_text()
    assert latex.count(r"\toprule") == 2 and r"\multicolumn{2}{c}{Winoground (text)}" in latex
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    row = next(r for r in rows if (r["model"], r["metric"]) == ("CLIP", "winoground/text"))
    assert row["published"] == "0.31" and float(row["low"]) <= float(row["value"]) <= float(row["high"])

    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/scores.json")}
    monkeypatch.setattr(embed.Encoder, "images", lambda *_: pytest.fail("a finished pair is embedded again"))
    run(folders, tmp_path, *models)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/scores.json")} == written
    assert "finished before" in capsys.readouterr().out


def test_compare_two_models(folders, tmp_path, capsys):
    run(folders, tmp_path, f"A={folders / 'tiny-clip'}", f"B={folders / 'tiny-siglip'}", names=["winoground"])
    command = ["A", "B", "--out", str(tmp_path), "--benchmark", "winoground", "--benchmarks_dir", str(folders)]
    compare.main([*command, "--outcome", "text"])
    made = tmp_path / "compare" / "A+B+winoground+text.html"
    said = capsys.readouterr().out
    assert made.with_suffix(".md").read_text("utf-8") in said and f"gallery: {made}" in said
    assert "a cat on a box 0" in made.read_text("utf-8")
    assert len(list(made.with_name("A+B+winoground+text_images").iterdir())) == 8
    compare.main([*command, "--outcome", "image"])
    assert made.exists() and made.with_name("A+B+winoground+image.html").exists(), "one does not replace the other"
    for change, reason in (
        (["--outcome", "right"], "expected one of: text, image, group, matching"),
        (["--benchmark", "vg_relation"], "evaluate 'A' on 'vg_relation' first"),
    ):
        with pytest.raises(SystemExit, match="2"):
            compare.main([*command, *change])
        assert reason in capsys.readouterr().err


def test_unreadable_images_are_named_and_tried_again(folders, tmp_path):
    root = tmp_path / "files"
    files.sugarcrepe(root, items=2)
    good = (root / "coco/val2017/000000000000.png").read_bytes()
    files.write(root / "coco/val2017/000000000000.png", b"broken")
    run(root, tmp_path / "out", f"CLIP={folders / 'tiny-clip'}", names=["sugarcrepe"])
    result = results.load(tmp_path / "out")[0]
    assert (result.items, result.unreadable, result.incomplete) == (11, 3, True)
    assert len(result.problems) == 3 and "000000000000.png: not a readable image" in result.problems[0]
    files.write(root / "coco/val2017/000000000000.png", good)
    run(root, tmp_path / "out", f"CLIP={folders / 'tiny-clip'}", names=["sugarcrepe"])
    result = results.load(tmp_path / "out")[0]
    assert (result.items, result.unreadable, result.problems) == (14, 0, ())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--models", "a=x", "a=y"], "each name once"),
        (["--models", "a=nowhere"], "nowhere"),
        (["--models", "a=x", "--benchmarks", "winogrand"], "are not known; expected some of: winoground"),
        (["--models", "a=x", "--benchmarks", "bivlc"], "bivlc: no .parquet file"),
        (["--models", "a=x", "--benchmarks", "naturel"], "--naturel"),
    ],
)
def test_what_the_command_refuses(folders, tmp_path, capsys, arguments, reason):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([*arguments, "--benchmarks_dir", str(folders), "--out", str(tmp_path)])
    assert reason in capsys.readouterr().err


def test_all_is_what_is_there(folders, capsys):
    found = registry.read(["all"], folders, None)
    assert [b.name for b in found] == ["winoground", "vg_relation", "vg_attribution", "sugarcrepe"]
    assert "left out bivlc" in capsys.readouterr().out


def test_cache(tmp_path, monkeypatch):
    model, params, processor = test_embed.tiny()
    encoder, path = embed.Encoder(model, processor, batch_size=4), tmp_path / "cache.sqlite"
    items = test_embed.items(13)
    expected = embed.cosines(items, encoder, params)[1]
    np.testing.assert_allclose(embed.cosines(items, cache.CachedEncoder(encoder, path), params)[1], expected, atol=1e-6)
    with monkeypatch.context() as patched:
        patched.setattr(embed.Encoder, "_run", lambda *_: pytest.fail("embedded again"))
        again = embed.cosines(items, cache.CachedEncoder(encoder, path), params)[1]
    np.testing.assert_allclose(again, expected, atol=1e-6)

    spelled = [benchmark.Item("0", items[0].images, (test_embed.CAPTIONS[0].upper(), test_embed.CAPTIONS[0]))]
    matrix = embed.cosines(spelled, cache.CachedEncoder(encoder, path), params)[1][0]
    assert matrix[0, 0] == matrix[0, 1], "captions of the same tokens tie, also across the cache"

    path.write_bytes(b"not a database" * 100)
    np.testing.assert_allclose(embed.cosines(items, cache.CachedEncoder(encoder, path), params)[1], expected, atol=1e-6)


def test_cache_names_bad_images(tmp_path):
    model, params, processor = test_embed.tiny()
    encoder = cache.CachedEncoder(embed.Encoder(model, processor, batch_size=4), tmp_path / "cache.sqlite")

    def missing() -> bytes:
        raise FileNotFoundError("gone")

    images = (benchmark.Image("broken", lambda: b"no"), benchmark.Image("missing", missing))
    bad = [benchmark.Item(str(n), (image,), ("a",)) for n, image in enumerate(images)]
    for _ in range(2):
        kept, _, problems = embed.cosines([*bad, *test_embed.items(2)], encoder, params)
        assert len(kept) == 2
        assert "image broken: not a readable image" in problems[0] and "image missing: gone" in problems[1]


def bench(items, macro=None) -> benchmark.Benchmark:
    metric = benchmark.Metric("accuracy", "right", macro=macro)
    return benchmark.Benchmark("b", tuple(items), rules.pair, (metric,))


def test_blind_baselines_find_what_needs_no_picture():
    # The true caption is always longer and says "the dog": words and length solve it, and a norm that prefers the
    # false one is always wrong.
    images = [benchmark.Image(f"picture {n}", bytes) for n in range(40)]
    items = [benchmark.Item(str(n), (images[n],), (f"the dog {n} is here", f"a cat {n}")) for n in range(40)]
    solved = dataclasses.replace(bench(items), true_captions=1)
    norms = {caption: float(caption.startswith("a cat")) for item in items for caption in item.captions}
    found = blind.baselines(solved, items, [np.zeros((1, 2))] * 40, norms)
    assert {name: values["accuracy"] for name, values in found.items()} == {
        "longer caption": 1,
        "shorter caption": 0,
        "n-grams": 1,
        "text norm": 0,
    }
    assert blind.baselines(bench(items), items, [np.zeros((1, 2))] * 40, {}) == {}


def test_ngrams_learn_nothing_from_their_own_picture():
    # One picture's captions are unlike all others': its items know only what the others say, so nothing tells them
    # apart.
    items = [benchmark.Item(str(n), (benchmark.Image("one", bytes),), (f"true {n}", f"false {n}")) for n in range(5)]
    assert all(odds[0] == odds[1] for odds in blind.ngrams(items, 1))


def test_ngram_log_odds_by_hand():
    # Two pictures in different folds. For item 1 the other picture gives: "up" in 1 of 1 true captions and 0 of 1
    # false ones.
    keys = [
        next(k for k in map(str, range(99)) if blind._fold(benchmark.Item("", (benchmark.Image(k, bytes),), ())) == f)
        for f in (0, 1)
    ]
    items = [benchmark.Item(k, (benchmark.Image(k, bytes),), ("up", "down")) for k in keys]
    up = math.log((2 / 3) / (1 / 3))  # (1 + 1) / (1 + 2) against (0 + 1) / (1 + 2)
    for odds in blind.ngrams(items, 1):
        assert odds == pytest.approx([3 * up, -3 * up]), (
            "the word and the pairs with both ends; the ends alone say nothing"
        )


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    items = [benchmark.Item(str(n), (), ("a", "b")) for n in range(400)]
    right = np.arange(400) % 4 == 0  # 0.25
    low, high = confidence.intervals(bench(items), items, {"right": right.astype(float)}, resamples=4000)["accuracy"]
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.006)


def test_items_that_share_a_picture_are_resampled_together():
    images = [benchmark.Image(f"picture {n}", bytes) for n in range(100)]
    items = [benchmark.Item(f"{n}/{k}", (images[n],), ("a", "b")) for n in range(100) for k in range(4)]
    right = np.repeat(np.arange(100) % 4 == 0, 4).astype(
        float
    )  # all four of a picture agree: 100 observations, not 400
    low, high = confidence.intervals(bench(items), items, {"right": right}, resamples=4000)["accuracy"]
    half = 1.96 * np.sqrt(0.25 * 0.75 / 100)
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.012)


def test_fingerprints_tell_apart_what_changes_a_score(folders):
    model, params, processor = test_embed.tiny()
    base = results.model_fingerprint(model, params, processor)
    changed = jax.tree.map(lambda x: x, params)
    changed["logit_scale"] = changed["logit_scale"] + 1
    assert base == results.model_fingerprint(model, params, processor)
    assert base != results.model_fingerprint(model, changed, processor)
    winoground, sugarcrepe = registry.load(["winoground", "sugarcrepe"], folders)
    assert results.pair_fingerprint(base, winoground) != results.pair_fingerprint(base, sugarcrepe)
    assert results.pair_fingerprint(base, winoground) != results.pair_fingerprint("other", winoground)


def test_names_of_models_become_folders_inside_the_results(tmp_path):
    names = ["CLIP", "hf:a/b", "hf:a_b", "../../x", "..", "a b"]
    found = {results.folder_of(tmp_path, name, "winoground") for name in names}
    assert len(found) == len(names) and all(folder.parent.parent == tmp_path for folder in found)
    assert all(".." not in folder.parts for folder in found)


def test_a_damaged_result_is_named(tmp_path):
    files.write(tmp_path / "CLIP/winoground/scores.json", json.dumps({"model": "CLIP"}).encode())
    with pytest.raises(ValueError, match=r"CLIP/winoground/scores\.json: not the scores of an evaluation"):
        results.load(tmp_path)


def test_items_that_were_trained_on_are_left_out_and_counted():
    items = tuple(benchmark.Item(str(n), (), ("right", "wrong")) for n in range(4))
    whole = benchmark.Benchmark("winoground", items, rules.pair, (benchmark.Metric("all", "right"),), published=400)
    held_out = whole.held_out({"1", "2", "not there"})
    assert [item.id for item in held_out.items] == ["0", "3"]
    assert held_out.problems == ("2 items were trained on and are left out; 2 are scored",)
    assert whole.held_out(()) is whole
