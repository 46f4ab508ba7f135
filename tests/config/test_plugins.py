"""Packages that add benchmarks, recipes and data sources: built and installed by pip, and used in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from naturel_jax.benchmarks import rules
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
GOOD = {"benchmarks": {"mine": "good_module"}, "recipes": {"three": "good_module:THREE"}}
GOOD |= {"sources": {"lines": "good_module:open_lines"}}

SUITES = """
from naturel_jax.benchmarks.benchmark import Source
from naturel_jax.benchmarks.table import CHOICE, GROUPS, PAIR, Format, entry

HERE = Source("MIT", "this test", "suites/")
two = lambda field: (f"{{{field}_0}}", f"{{{field}_1}}")
some = {"images": ("{image}",), "more_captions": "captions"}
forms = {
    "pairs": Format(PAIR, {"": "suites/pairs.json"}, ("suites",), ("{image}",), ("{true}", "{false}")),
    "choice": Format(CHOICE, {"": "suites/choice.jsonl"}, ("suites",), answer="answer", **some),
    "groups": Format(GROUPS, {"": "suites/groups.csv"}, ("suites",), two("image"), two("caption")),
    "ranked": Format(None, {"": "suites/ranked.jsonl"}, ("suites",), **some),
}
pairs, choice, groups, ranked = (entry(f"their_{name}", form, HERE) for name, form in forms.items())
"""
THEIRS = {"benchmarks": {f"their_{name}": f"suites_module:{name}" for name in ("pairs", "choice", "groups", "ranked")}}


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
    install(root, root / "one", "suites", SUITES, THEIRS)
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


SCORE = """
import json
from pathlib import Path
import numpy as np
from naturel_jax.benchmarks import registry
from naturel_jax.report import overview

cosines = {name: [np.array(matrix) for matrix in of_items] for name, of_items in json.loads(sys.argv[2]).items()}
found = registry.read([*cosines], files=Path(sys.argv[1]))
scores = [(metric, score.value) for one in found for metric, score in one.score(one.items, cosines[one.name]).items()]
families = {family.title: metrics for family, metrics in overview.columns([metric for metric, _ in scores]).items()}
print(json.dumps({"scores": dict(scores), "families": families, "first": found[1].items[1].captions[0]}))
"""


def test_a_suite_of_each_kind_is_a_row_without_code(installed, tmp_path):
    """Of another package: pairs, a choice, groups and retrieval, with two items each, against scores by hand."""
    folder, two = tmp_path / "suites", [{"image": f"{n}.png"} for n in range(2)]
    for n in range(2):
        files.write(folder / f"{n}.png", files.png(n))
    files.write(folder / "pairs.json", [row | {"true": "a cat", "false": "a dog"} for row in two])
    four = [row | {"captions": ["a", "b", "c", "d"], "answer": 2} for row in two]
    files.write(folder / "choice.jsonl", files.lines(four))
    files.write(folder / "groups.csv", b"image_0,image_1,caption_0,caption_1\n" + b"0.png,1.png,a cat,a dog\n" * 2)
    ranked = [row | {"captions": [f"{n} {k}" for k in range(2)]} for n, row in enumerate(two)]
    files.write(folder / "ranked.jsonl", files.lines(ranked))
    cosines = {
        "their_pairs": [[[0.9, 0.1]], [[0.5, 0.5]]],  # a tie is wrong
        "their_choice": [[[0.5, 0.2, 0.1, 0.5]], [[0.5, 0.5, 0.2, 0.1]]],  # c, a, b, d: c ties with d, then with a
        "their_groups": [[[1, 0], [0, 1]], [[1, 0], [1, 0.5]]],
        "their_ranked": [[[1, 0, 0.5, 0]], [[0, 1, 1, 1]]],  # the second image's best ties, the second caption is lost
    }
    done = python(SCORE, installed[0], arguments=(tmp_path, json.dumps(cosines)))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    scores = {
        **{"their_pairs/accuracy": 0.5, "their_choice/accuracy": 0.5, "their_groups/text": 0.5},
        **{"their_groups/image": 0.5, "their_groups/group": 0.5, "their_groups/matching": 1.0},
        **{"their_ranked/image_to_text@1": 0.5, "their_ranked/text_to_image@1": 0.75},
    }
    later = {metric for metric in found["scores"] if metric.endswith(("@5", "@10"))}
    assert {metric: found["scores"][metric] for metric in found["scores"].keys() - later} == scores and len(later) == 4
    assert found["first"] == "c"
    assert found["families"] == {
        "Retrieval": ["their_ranked/image_to_text@1", "their_ranked/text_to_image@1"],
        "Groups of two images and two captions": [f"their_groups/{score}" for score in rules.TWO_BY_TWO],
        "Pairs and choices": ["their_pairs/accuracy", "their_choice/accuracy"],
    }


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
    cause = "ModuleNotFoundError: No module named 'no_such_library'; update or uninstall that package"
    assert torn == (
        f"naturel_jax.benchmarks: 'torn' of the package bad 1.2 (bad_module:torn) cannot be imported: {cause}"
    )
    twice = "; uninstall one of them, or give its entry point another name"
    assert vsr == f"naturel_jax.benchmarks: 'vsr' is registered by naturel_jax and by bad 1.2{twice}"
    assert pairs == f"naturel_jax.recipes: 'two_pairs' is registered by naturel_jax and by bad 1.2{twice}"
    assert three == f"naturel_jax.recipes: 'three' is registered by bad 1.2 and by good 1.2{twice}"
    is_text = "'number' of the package bad 1.2 (os:sep) is '/'; expected a naturel_jax.data.batches.recipes.Recipe"
    assert is_text in number
    assert nothing.startswith("naturel_jax.sources: 'nothing' of the package bad 1.2 (bad_module.inside:X) cannot be")
    assert assigned == "all one_pair"
    assert [line.partition(": ")[0] for line in listed if not line.startswith(" ")] == ["vsr", "torn", "valse"]
