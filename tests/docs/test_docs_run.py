"""What stands in the documentation runs: the formulas, the examples of how to add things, and the tutorial."""

import importlib
import os
import re
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from naturel_jax import config as c
from naturel_jax.benchmarks import registry
from naturel_jax.data import datasets
from naturel_jax.data.batches import recipes
from naturel_jax.devices import hardware
from naturel_jax.losses.batch import CaptionLabels, ImageLabels
from naturel_jax.losses.objectives import OBJECTIVES
from naturel_jax.losses.terms import TERMS
from naturel_jax.losses.terms.term import Embedded
from naturel_jax.models import presets
from naturel_jax.models.two_tower import Model
from naturel_jax.training import optim
from naturel_jax.training.optim import OPTIMIZERS, SCHEDULES
from naturel_jax.weights import export
from tests.helpers import documents
from tests.helpers.benchmark_files import png, write
from tests.helpers.caption_groups import sampled_texts
from tests.helpers.documents import ROOT
from tests.helpers.model_files import tiny
from tests.helpers.processes import run
from tests.helpers.worlds import data_dir
from tfds_naturel.scenes import twins
from tfds_naturel.scenes.scene import CONFIGS, VERSION


def python(page: str) -> list[documents.Block]:
    return [block for block in documents.blocks(ROOT / "docs" / page, "python") if not block.needs]


# ---- Formulas --------------------------------------------------------------------------------------------------------


def test_formulas_in_numpy_equal_the_losses():
    (block,) = python("losses.md")
    assert "assert_allclose" in block.text
    exec(block.text, {})


# ---- Configs and additions -------------------------------------------------------------------------------------------


def test_configs_of_the_training_page_load(tmp_path, monkeypatch):
    block, frozen = python("training.md")
    (tmp_path / block.file).write_text(block.text)
    monkeypatch.syspath_prepend(tmp_path)
    for world in ("", "scenes"):
        config = c.load(importlib.import_module("mine").get_config(world))
        assert config.name == "SigLIP-TP, image tower frozen" and config.optim.lr_multipliers
    raw, model = c.base(), Model(presets.preset("clip-b32"))
    raw.preset, raw.data.mixture.main = "clip-b32", c.part("naturel/full", "one_pair")
    exec(frozen.text, {"config": raw})
    lowest = optim.frozen_blocks(c.load(raw).optim, model.config, model.shapes())
    assert lowest == {"image": 9, "text": 0}


TABLES = (
    recipes.RECIPES,
    OPTIMIZERS,
    SCHEDULES,
    OBJECTIVES,
    TERMS,
    registry.BENCHMARKS,
    datasets.SOURCES,
    presets.PRESETS,
    hardware.ACCELERATORS,
)


@pytest.fixture(scope="module")
def additions(tmp_path_factory):
    """The folder in which every block of docs/extending.md has been run."""
    folder, before = tmp_path_factory.mktemp("extending"), [dict(table) for table in TABLES]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for block in python("extending.md"):
            if block.file:
                (folder / block.file).write_text(block.text)
            exec(block.text, {"__name__": block.file.removesuffix(".py")})
        yield folder
    for table, rows in zip(TABLES, before, strict=True):
        for name in set(table) - rows.keys():
            del table[name]


def added(table: dict) -> set[str]:
    names = ("two_negatives", "missing_word", "radam", "square_root", "hinge", "uniformity", "colours", "pairs")
    names += ("small-clip", "rtx-4090")
    return set(names) & table.keys()


def test_every_table_has_an_example_but_the_families(additions):
    assert [len(added(table)) for table in TABLES] == [2, 1, 1, 1, 1, 1, 1, 1, 1]
    rule = documents.prose(ROOT / "docs/extending.md")
    assert re.findall(r"\| `([A-Z]+)`", rule)[:2] == ["RECIPES", "OBJECTIVES"]


def test_added_recipes_sample(additions):
    config = c.base()
    config.preset, config.data.dir = "small-clip", os.fspath(data_dir())
    config.data.mixture.main = c.part("naturel/tiny", "two_negatives")
    config.data.mixture.other = c.part("naturel/tiny", "missing_word")
    config.optim.name, config.optim.schedule, config.objective.name = "radam", "square_root", "hinge"
    source = datasets.open_sources(c.load(config).data)[0]
    for name, counts in (("two_negatives", (1, 2)), ("missing_word", (1, 0))):
        rule = recipes.recipe(name)
        assert rule.check(source.items) == counts
        assert [tuple(map(len, sides)) for sides in sampled_texts(rule, source.items, [0])] == [counts]
    assert SCHEDULES["square_root"](jnp.float32(0.25)) == 0.5 and OPTIMIZERS["radam"](c.Optim())
    assert Model(presets.preset("small-clip")).config.embed_dim == 256
    assert hardware.peak("NVIDIA GeForce RTX 4090", "bfloat16") == 165.2e12


def test_added_loss_is_its_closed_form(additions):
    z = np.eye(4, dtype=np.float32)
    zimg, zcap = z[:3], np.float32([[0.6, 0.8, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 0, 1]])
    images = ImageLabels(
        np.float32([1, 3, 0]), np.int32([[0], [1], [-1]]), np.int32([[1], [-1], [-1]]), np.int32([[-1]] * 3)
    )
    captions = CaptionLabels(np.float32([1, 3, 0]), np.int32([0, 1, -2]), np.int32([[-2]] * 3))
    options = {"scale": 1.0, "bias": 0.0, "images": images, "captions": captions, "counting": "published"}
    value = OBJECTIVES["hinge"].loss(jnp.asarray(zimg), jnp.asarray(zcap), hard_negative_weight=1.0, **options)
    # Image 0: 0.6 for its positive, 0.8 for the negative; image 1 the same, three times. Padding counts for nothing.
    np.testing.assert_allclose(value, 0.2 + 0.8 - 0.6, rtol=1e-6)


def test_added_term_is_its_closed_form(additions):
    """Two orthogonal images, one of them twice: of nine pairs, four are of different images, and d^2 is 2."""
    z, images = np.eye(2, dtype=np.float32), ImageLabels(jnp.float32([1, 2]), None, None, None)
    value = TERMS["uniformity"](t=0.5)(Embedded(z, z, jnp.float32(1), jnp.float32(0), images, None))
    np.testing.assert_allclose(value, np.log((5 + 4 * np.exp(-1)) / 9), rtol=1e-6)


def test_config_and_costs_of_the_terms():
    """The second block of docs/methods.md checks what the page says of costs; the third trains one projection."""
    example, costs, projection = python("methods.md")
    names = {}
    exec(example.text, names)
    raw = names["get_config"]()
    raw.preset, raw.data.mixture.main = "tiny-clip", c.part("naturel/tiny", "two_pairs")
    assert c.load(raw).objective.terms["own_foils"] == TERMS["own_foils"](weight=0.5, form="focal")
    assert costs.text.count("assert ") == 5
    exec(costs.text, {})
    exec(projection.text, {"config": raw})
    factors = optim.multipliers(c.load(raw).optim, Model(presets.preset("tiny-clip")).shapes())
    assert factors["text"]["projection"]["kernel"] == 1 == sum(map(np.sum, jax.tree.leaves(factors)))


def test_added_benchmark_reads(additions, tmp_path):
    write(tmp_path / "colours/rows.json", [{"image": "0.png", "true": "a red cup", "false": "a blue cup"}])
    write(tmp_path / "colours/images/0.png", png(0))
    (benchmark,) = registry.read(["colours"], files=tmp_path)
    assert not benchmark.problems and benchmark.items[0].captions == ("a red cup", "a blue cup")
    assert benchmark.score(benchmark.items, [np.float32([[0.3, 0.2]])])["colours/accuracy"].value == 1


def test_added_source_opens(additions, tmp_path):
    write(tmp_path / "photos/0.png", png(0))
    write(tmp_path / "my.json", [["photos/0.png", "a red cup"]])
    source = datasets.open_source(f"pairs:{tmp_path / 'my.json'}", os.fspath(tmp_path / "data"), "train")
    assert list(source.items.texts) == ["a red cup"] and source.read_image(0) == png(0)


# ---- The README ------------------------------------------------------------------------------------------------------


def test_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    """With a model without training in place of the one that its command trains, and a photo where it draws one."""
    (block,) = documents.blocks(ROOT / "README.md", "python")
    export.save(tmp_path / "runs/negclip_sp_scenes", *tiny("tiny-clip"), form="run")
    write(tmp_path / f"data/twins/scenes/{VERSION}/coco/val2017/000000001601.jpg", png(0))
    monkeypatch.chdir(tmp_path)
    exec(block.text, {})
    assert re.fullmatch(r"\[\[ ?-?\d\.\d+ +-?\d\.\d+\]\]\n", capsys.readouterr().out)


# ---- The tutorial ----------------------------------------------------------------------------------------------------


_FIELDS = {
    "duration": "2 steps",
    "optim.warmup": "0 steps",
    "data.batch_size": 16,
    "eval.benchmarks": ("naturel",),
    "eval.batch_size": 32,
}
SHORT = " ".join(
    f'--config.{base}{field}="{value}"' for base in ("", "bases.clip_scenes.") for field, value in _FIELDS.items()
)


@pytest.fixture
def world(tmp_path) -> Path:
    """A folder with a small world and few items in its twins in place of those that the tutorial draws."""
    prepared = tmp_path / "data" / "naturel" / "scenes"
    prepared.parent.mkdir(parents=True)
    shutil.copytree(data_dir() / "naturel" / "tiny", prepared)
    twins.write(tmp_path / "data" / "twins" / "scenes" / VERSION, CONFIGS["scenes"], 0, 8)
    return tmp_path


@pytest.fixture
def environment(tmp_path_factory) -> dict[str, str]:
    """The commands as installed, from this tree."""
    folder = tmp_path_factory.mktemp("bin")
    for name, entry in documents.project()["scripts"].items():
        module, _, function = entry.partition(":")
        script = folder / name
        script.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
        script.chmod(0o755)
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    cache = {"JAX_COMPILATION_CACHE_DIR": f"{data_dir()}/xla", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    return os.environ | cache | {"PATH": path, "PYTHONPATH": str(ROOT)}


@pytest.mark.proof
def test_tutorial_runs(world, environment):
    """In order, with two steps in place of hundreds."""
    page = ROOT / "docs" / "tutorial.md"
    for block in documents.blocks(page, "bash"):
        text = re.sub(r"^(naturel-train .*)$", rf"\1 {SHORT}", block.text, flags=re.MULTILINE)
        run(["bash", "-eu", "-c", text], world, environment)
    code = "\n".join(block.text for block in documents.blocks(page, "python"))
    printed = run([sys.executable, "-c", code], world, environment)
    assert "negclip_sp_scenes: " in printed and "tensor([[" in printed
    saved = {path.name for path in (world / "runs/negclip_sp_scenes").iterdir()}
    named = re.findall(r"`([\w.]+?)/?`", page.read_text().partition("| file")[2].partition("\n\n")[0])
    assert saved >= set(named), set(named) - saved
    assert {"report.html", "scores.csv", "compare"} <= {path.name for path in (world / "results").iterdir()}


@pytest.mark.slow
def test_commands_of_the_installation_page_run(tmp_path, environment):
    for block in documents.blocks(ROOT / "docs" / "install.md", "bash"):
        if not block.needs:
            run(["bash", "-eu", "-c", block.text], tmp_path, environment)
