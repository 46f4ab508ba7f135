"""Packages that add benchmarks, recipes and data sources: built and installed by pip, and used in a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import benchmark_files as files
from tests.helpers.worlds import ROOT
from tfds_naturel.common import cli

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "{version}"
[tool.setuptools]
py-modules = ["{module}"]
"""
MODULE = '''
"""What another package adds."""

import json
from pathlib import Path

from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric, Source
from naturel_jax.benchmarks.files import Folder
from naturel_jax.data.batches.recipes import Recipe
from naturel_jax.data.items.records import Shard, Table

print("imported")
THREE = Recipe(positives=1, negatives=3)
SOURCE = Source("MIT", "this test", "mine/rows.json")


def read(folder):
    rows = json.loads((folder / "mine/rows.json").read_text())
    images = Folder(folder / "mine")
    items = tuple(Item(str(n), (images.image(row[0]),), tuple(row[1:])) for n, row in enumerate(rows))
    return Benchmark("mine", items, rules.pair, (Metric("mine/right", "right"),))


def open_lines(name, data_dir, split):
    rows = lambda: ({"image": line, "caption": "a cat"} for line in Path(name).read_text().split())
    return Table(f"lines:{name}", str(Path(name).parent), [Path(name)], [Shard(name, rows)])
'''
GOOD = {
    "benchmarks": {"mine": "good_module"},
    "recipes": {"three": "good_module:THREE"},
    "sources": {"lines": "good_module:open_lines"},
}


def install(folder: Path, target: Path, name: str, module: str, entries: dict[str, dict[str, str]]) -> None:
    """Builds the package ``name`` of the one module ``name``_module, and installs it into the folder ``target``."""
    source = folder / name
    tables = "".join(
        f'[project.entry-points."naturel_jax.{group}"]\n'
        + "".join(f'{key} = "{value}"\n' for key, value in rows.items())
        for group, rows in entries.items()
    )
    project = PROJECT.format(name=name, version="1.2", module=f"{name}_module")
    files.write(source / "pyproject.toml", (project + tables).encode())
    files.write(source / f"{name}_module.py", module.encode())
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    command = [*pip, "--no-build-isolation", "--target", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> tuple[Path, Path]:
    """Two folders: one with a package that works, one with it and several that do not."""
    root = tmp_path_factory.mktemp("plugins")
    install(root, root / "one", "good", MODULE, GOOD)
    broken = {
        "benchmarks": {"torn": "bad_module:torn", "vsr": "bad_module:torn"},
        "recipes": {"two_pairs": "bad_module:X", "three": "bad_module:X", "number": "os:sep"},
        "sources": {"nothing": "bad_module.inside:X"},
    }
    install(root, root / "other", "bad", "import no_such_library\n", broken)
    return root / "one", root / "other"


def python(code: str, *targets: Path, arguments: tuple[object, ...] = ()) -> subprocess.CompletedProcess:
    """The outcome of ``code`` in a process that finds the packages in ``targets``."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, *targets)))}
    command = [sys.executable, "-c", f"import sys\n{code}", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


USE = """
from pathlib import Path
from naturel_jax.benchmarks import registry
from naturel_jax.data import datasets
from naturel_jax.data.batches import recipes

print(*[name in table for table, name in (
    (registry.BENCHMARKS, "mine"), (recipes.RECIPES, "three"), (datasets.SOURCES, "lines"))])
(benchmark,) = registry.read(["mine"], files=Path(sys.argv[1]))
print(benchmark.name, len(benchmark.items), recipes.recipe("three").negatives)
print(list(datasets.open_source(f"lines:{sys.argv[1]}/lines.txt", sys.argv[1], "train").items.image_ids))
"""


def test_installed_package_adds_a_benchmark_a_recipe_and_a_source(installed, tmp_path):
    """Its module is imported when a row of it is used, not when the names are listed."""
    files.write(tmp_path / "mine/rows.json", [["a.png", "a cat", "a dog"]])
    files.write(tmp_path / "mine/a.png", files.png(0))
    files.write(tmp_path / "lines.txt", b"mine/a.png\nmine/a.png\n")
    done = python(USE, installed[0], arguments=(tmp_path,))
    expected = "True True True\nimported\nmine 1 3\n['mine/a.png', 'mine/a.png']\n"
    assert done.stdout == expected, done.stderr[-3000:]


FAIL = """
from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError
from naturel_jax.benchmarks import registry
from naturel_jax.data import datasets
from naturel_jax.data.batches import recipes

for table, name in (
    (registry.BENCHMARKS, "torn"), (registry.BENCHMARKS, "vsr"), (recipes.RECIPES, "two_pairs"),
    (recipes.RECIPES, "three"), (recipes.RECIPES, "number"), (datasets.SOURCES, "nothing"),
):
    try:
        table[name]
    except UserError as error:
        print(error)
recipes.RECIPES["two_pairs"] = recipes.RECIPES["all_pairs"]
print(recipes.RECIPES["two_pairs"].positives, recipes.recipe("one_pair").name)
from naturel_jax.benchmarks import __main__
cli.run(__main__.main, ["vsr", "torn", "valse"])
"""


def test_broken_packages_and_names_used_twice_are_refused_by_name(installed):
    """What the others add still works, and so does a row that the user assigns."""
    done = python(FAIL, *installed)
    assert done.returncode == cli.DONE, done.stderr[-3000:]
    torn, vsr, pairs, three, number, nothing, assigned, *listed = done.stdout.splitlines()
    cause = (
        "cannot be imported: ModuleNotFoundError: No module named 'no_such_library'; update or uninstall that package"
    )
    assert torn == f"naturel_jax.benchmarks: 'torn' of the package bad 1.2 (bad_module:torn) {cause}"
    twice = "; uninstall one of them, or give its entry point another name"
    assert vsr == f"naturel_jax.benchmarks: 'vsr' is registered by naturel_jax and by bad 1.2{twice}"
    assert pairs == f"naturel_jax.recipes: 'two_pairs' is registered by naturel_jax and by bad 1.2{twice}"
    assert three == f"naturel_jax.recipes: 'three' is registered by bad 1.2 and by good 1.2{twice}"
    assert (
        "'number' of the package bad 1.2 (os:sep) is '/'; expected a naturel_jax.data.batches.recipes.Recipe" in number
    )
    assert nothing.startswith("naturel_jax.sources: 'nothing' of the package bad 1.2 (bad_module.inside:X) cannot be")
    assert assigned == "all one_pair"
    assert [line.partition(": ")[0] for line in listed if not line.startswith(" ")] == ["vsr", "torn", "valse"]
