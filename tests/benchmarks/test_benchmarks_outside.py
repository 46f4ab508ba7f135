"""An external benchmark: one file and one line."""

import importlib.util
import sys
from pathlib import Path

import pytest

from naturel_jax import evaluate
from naturel_jax.benchmarks import __main__ as command
from naturel_jax.benchmarks.registry import BENCHMARKS
from naturel_jax.report import compare
from tests.helpers import benchmark_files as files
from tests.helpers.loopback import serve
from tests.helpers.saved_models import write_model

FILE = '''
"""Whether it is a cat."""

from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric, Source
from naturel_jax.benchmarks.files import Folder, load_json, numbered, read_items

SERVER = "http://nowhere.invalid"


def images(folder):
    names = [row["image"] for row in load_json(folder / "mine/rows.json", list)]
    return {f"mine/{name}": f"{SERVER}/{name}" for name in names}


SOURCE = Source("MIT", "this test", "mine/rows.json and its images", {"mine/rows.json": SERVER}, images=images)


def read(folder):
    found, problems = Folder(folder / "mine"), []

    def item(key, row):
        return Item(key, (found.image(row["image"]),), (row["true"], row["false"]))

    rows = numbered(load_json(folder / "mine/rows.json", list))
    items = read_items("rows.json", rows, {"image": str, "true": str, "false": str}, item, problems)
    return Benchmark("mine", tuple(items), rules.pair, (Metric("mine/cats", "right"),), problems=tuple(problems))
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The file above as a registered module."""
    path = tmp_path / "mine_outside.py"
    path.write_text(FILE)
    spec = importlib.util.spec_from_file_location("mine_outside", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mine_outside", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(BENCHMARKS, "mine", module)
    return module


def test_external_benchmark_needs_one_file_and_one_line(tmp_path, mine, monkeypatch, capsys):
    root, out = tmp_path / "benchmarks", tmp_path / "out"
    command.main(["--dir", str(root)])
    assert "mine: " in capsys.readouterr().out.split("needs: mine/rows.json and its images")[0]

    rows = [{"image": f"{n}.png", "true": f"a cat {n}", "false": f"a dog {n}"} for n in range(4)]
    files.write(tmp_path / "served/rows.json", rows)
    for n in range(4):
        files.write(tmp_path / f"served/{n}.png", files.png(n))
    with serve(tmp_path / "served") as (address, _):
        monkeypatch.setattr(mine, "SERVER", address)
        monkeypatch.setitem(mine.SOURCE.files, "mine/rows.json", f"{address}/rows.json")
        command.main(["--dir", str(root), "--download", "mine"])
    assert "mine: 4 items" in capsys.readouterr().out

    models = [f"{name}={write_folder(tmp_path / name, name)}" for name in ("tiny-clip", "tiny-siglip")]
    folders = ["--benchmarks_dir", str(root), "--out", str(out)]
    evaluate.main(["--models", *models, "--benchmarks", "mine", *folders, "--batch_size", "8"])
    printed = capsys.readouterr().out
    for text in (printed, (out / "report.md").read_text(), (out / "report.html").read_text()):
        assert "Further benchmarks: mine" in text and "cats" in text

    compare.main(["tiny-clip", "tiny-siglip", "--benchmark", "mine", *folders])
    assert "tiny-siglip against tiny-clip on mine" in capsys.readouterr().out


def write_folder(folder: Path, name: str) -> Path:
    write_model(folder, name)
    return folder
