"""The files to read for one training step, as docs/design.md lists them, are those that it runs through, and what they
import otherwise is left out there by name."""

import ast
import dataclasses
import os
import re
import sys
from pathlib import Path

import jax
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax import main
from naturel_jax.data import datasets
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.training import run
from naturel_jax.training.start import make_start
from tests.helpers import tiny_config
from tests.helpers.worlds import ROOT, data_dir

PACKAGE = ROOT / "naturel_jax"
FILES, LINES = 10, 2000


def section() -> str:
    text = (ROOT / "docs" / "design.md").read_text()
    return text.partition("Read these, in this order")[2].partition("\n## ")[0]


def listed() -> list[str]:
    """The numbered list under "Read these, in this order" of docs/design.md, relative to naturel_jax/."""
    return re.findall(r"^\d+\. `([\w/]+\.py)`", section(), re.MULTILINE)


def left_out() -> tuple[str, ...]:
    """The folders and files that the section leaves out."""
    text = section().partition("Other questions are left out")[2]
    return tuple(re.findall(r"`([\w/]+(?:/|\.py))`", text))


def imports(path: Path) -> set[str]:
    """The files of naturel_jax/ that a file imports."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.module]
    names = [f"{node.module}.{alias.name}".split(".") for node in nodes for alias in node.names]
    places = [ROOT.joinpath(*parts[:length]) for parts in names for length in (len(parts), len(parts) - 1)]
    found = {place.with_suffix(".py") for place in places if place.with_suffix(".py").is_relative_to(PACKAGE)}
    return {str(file.relative_to(PACKAGE)) for file in found if file.is_file()}


@pytest.mark.slow
def test_a_step_takes_ten_files(tmp_path):
    """All functions that are called from ``make_training`` to the end of a step, which is traced and run."""
    raw = tiny_config.get_config("sigmoid")
    raw.data.dir = os.fspath(data_dir())
    config, package = c.load(raw), Path(main.__file__).parent
    mesh = make_mesh(dataclasses.asdict(config.mesh), jax.devices()[:2])
    sources = datasets.open_sources(config.data)
    start = make_start(config, "", epath.Path(tmp_path), sources, mesh)
    entered = set[str]()

    def enter(frame, event, argument) -> None:
        if event == "call":
            entered.add(frame.f_code.co_filename)

    batches = None
    sys.setprofile(enter)
    try:
        training = run.make_training(config, start, sources, mesh)
        sys.setprofile(None)
        batches = training.pipeline.batches(0, 1)
        batch = next(batches)
        sys.setprofile(enter)
        _, metrics = training.step(training.state, batch)
    finally:
        sys.setprofile(None)
    assert metrics["finite"]
    ours = {str(path.relative_to(package)) for path in map(Path, entered) if path.is_relative_to(package)}
    assert {"main.py", *(path for path in ours if not path.startswith(left_out()))} == set(listed())


def test_what_they_import_is_listed_or_left_out_by_name():
    known = (*listed(), *left_out())
    assert {"models/flops.py", "losses/objectives.py"} <= imports(PACKAGE / "training" / "loss.py")
    assert not {name for file in listed() for name in imports(PACKAGE / file) if not name.startswith(known)}
    assert not [name for name in left_out() if not (PACKAGE / name).exists()]


def test_the_files_of_a_step_are_short():
    files = [ROOT / "naturel_jax" / name for name in listed()]
    assert len(files) <= FILES and sum(len(path.read_text().splitlines()) for path in files) <= LINES
