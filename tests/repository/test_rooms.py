"""The layout: folders import one way, commands at the top are thin, and tests mirror the source tree."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("naturel_jax", "tfds_naturel")


def module_files() -> dict[str, Path]:
    """Module -> its file."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported_by(path: Path, files: dict[str, Path]) -> Iterator[str]:
    """The modules of ``files`` that the file ``path`` imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom) and node.module in files:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in files else node.module


def test_folders_import_one_way():
    """A cycle of folders, each with the files right in it, is named."""
    files = module_files()
    folder = {name: str(path.parent.relative_to(ROOT)) for name, path in files.items()}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        for imported in imported_by(path, files):
            if "naturel_jax" not in (module, imported) and folder[module] != folder[imported]:
                graph.setdefault(folder[module], set()).add(folder[imported])
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the cycle
    assert order.index("naturel_jax/models") < order.index("naturel_jax/training") < order.index("naturel_jax")


@pytest.mark.parametrize(
    ("folder", "folders", "files"), [("naturel_jax", 16, None), ("naturel_jax/data", 10, 10), ("tfds_naturel", 12, 12)]
)
def test_rooms_are_few(folder, folders, files):
    entries = [
        path for path in (ROOT / folder).iterdir() if path.name not in ("__init__.py", "__pycache__", "py.typed")
    ]
    assert sum(path.is_dir() for path in entries) <= folders
    assert files is None or len(entries) <= files


def test_commands_at_the_top_are_thin():
    """Each parses its flags and hands over to a room."""
    for path in (ROOT / "naturel_jax").glob("*.py"):
        assert len(path.read_text().splitlines()) < 120, path.name


OTHERS = ("build", "docs", "faults", "fixtures", "helpers", "repository")  # of no folder, or of all
# These reach their folder's modules through commands, processes, or the package itself.
FROM_OUTSIDE = {
    *("cli/test_compilation_cache.py", "config/test_plugins.py", "data/sources/test_data_sources.py"),
    *("evaluators/test_api.py", "planning/test_gpu_programs.py", "planning/test_tpu_programs.py"),
    *("reproduce/test_reproduce_rehearsal.py", "training/test_adapter_processes.py"),
    *("tfds_naturel/test_v6.py", "training/test_training_processes.py"),
}


def test_tests_mirror_the_source_tree():
    """A test file imports a module that lies in the folder it mirrors."""
    files, tests, misplaced = module_files(), ROOT / "tests", set()
    for path in tests.rglob("test_*.py"):
        name = path.relative_to(tests)
        if name.parts[0] not in OTHERS:
            folder = ROOT / ("" if name.parts[0] == "tfds_naturel" else "naturel_jax") / name.parent
            if folder not in {files[module].parent for module in imported_by(path, files)}:
                misplaced.add(str(name))
    assert misplaced == FROM_OUTSIDE
    assert {path.name for path in tests.glob("*.py")} == {"__init__.py", "conftest.py"}


def test_nothing_is_reached_by_sys_path():
    """perf, proofs and tests import helpers as ``tests.helpers``."""
    files = [path for folder in ("tests", "perf", "proofs") for path in (ROOT / folder).rglob("*.py")]
    found = [path.name for path in files if "sys.path." in path.read_text() and path.name != Path(__file__).name]
    assert not found
