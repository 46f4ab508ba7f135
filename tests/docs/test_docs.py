"""What the documentation names exists: commands with their flags, config fields, files, tests, links."""

import argparse
import ast
import dataclasses
import fnmatch
import importlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from xml.etree import ElementTree

import pytest
import yaml

from naturel_jax import config as c
from naturel_jax.benchmarks import hard_positives, rules
from naturel_jax.benchmarks.benchmark import Chance, Image, Item
from naturel_jax.benchmarks.registry import BENCHMARKS
from naturel_jax.cli import commands as installed
from naturel_jax.evaluators import mistakes
from naturel_jax.losses.terms import TERMS
from perf import exchange
from tests.helpers import documents
from tests.helpers.documents import PAGES, ROOT, Block
from tests.helpers.parsing import Parsed, stop_once_parsed
from tfds_naturel.common import cli

PROJECT = documents.project()
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def of_page(function: Callable) -> Callable:
    return pytest.mark.parametrize("page", PAGES, ids=NAMES)(function)


# ---- Commands --------------------------------------------------------------------------------------------------------


def main_of(program: str) -> Callable[[Sequence[str]], object]:
    """``main`` of an installed command or a module."""
    if program.startswith("naturel-"):
        mains: list[Callable] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli, "run", mains.append)
            getattr(installed, PROJECT["scripts"][program].partition(":")[2])()
        return mains[0]
    module = importlib.import_module(program)
    return module.main if hasattr(module, "main") else importlib.import_module(f"{program}.__main__").main


def ours(words: list[str]) -> tuple[str, list[str]]:
    """(program, arguments) of one of our commands; ("", []) for another program."""
    if words[0].startswith("naturel-"):
        return words[0], words[1:]
    if words[:2] == ["python", "-m"] and words[2].startswith(("naturel_jax", "tfds_naturel", "perf.", "proofs.")):
        return words[2], words[3:]
    return "", []


def command_lines() -> list[tuple[Block, str, list[str]]]:
    shell = [block for page in PAGES for block in documents.blocks(page, "bash")]
    lines = [(block, *ours(words)) for block in shell for words in documents.commands(block)]
    return [line for line in lines if line[1]]


TRAIN = ("naturel-train", "naturel_jax.main")


def test_flags_of_every_command(capsys, monkeypatch):
    stop_once_parsed(monkeypatch)
    lines = [line for line in command_lines() if line[1] not in TRAIN]
    assert len({program for _, program, _ in lines}) > 8
    for block, program, arguments in lines:
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        if "--download" in arguments:
            names = arguments[arguments.index("--download") + 1 :]
            assert all(BENCHMARKS[name].SOURCE.downloadable for name in names), f"{block}: {names}"
        try:
            main_of(program)(arguments)
        except Parsed:
            continue
        except SystemExit as stop:
            if stop.code in (0, None) and "--help" in arguments:
                continue
            pytest.fail(f"{block}: {program} {arguments}: {capsys.readouterr().err}")
        pytest.fail(f"{block}: {program} parsed nothing")


CHECK_CONFIGS = """
import json, os, sys
from naturel_jax import config, main
from naturel_jax.cli import config_flags
any_config = config.base()
any_config.init = "run:any"
config.load(any_config)  # imports all that fields are checked with
for block, arguments in json.load(sys.stdin):
    if (child := os.fork()) == 0:  # flags can be parsed once in a process
        try:
            config.load(config_flags.parse(["naturel-train", *arguments]))
            os._exit(0)
        except BaseException as error:
            print(f"{block}: {arguments}: {error}", flush=True)
            os._exit(1)
    if (status := os.waitpid(child, 0)[1]) not in (0, 256):
        print(f"{block}: {arguments}: the process ended with status {status}")
"""


def test_configs_and_overrides_of_every_training_command(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "naturel_jax" / "configs")
    lines = []
    for block, program, arguments in command_lines():
        if program in TRAIN and "--help" not in arguments:
            lines.append((str(block), arguments))
    for page in PAGES:
        for block in documents.blocks(page):
            if block.file:
                (tmp_path / block.file).write_text(block.text)
    assert len(lines) > 10
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHECK_CONFIGS],
        input=json.dumps(lines),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr


def known_flags() -> set[str]:
    """The long flags of all our commands, of launch/ and of the programs that the pages compare us with."""
    flags = set()
    add_argument = argparse._ActionsContainer.add_argument
    with pytest.MonkeyPatch.context() as patch:

        def record(self, *names, **options):
            flags.update(name for name in names if name.startswith("--"))
            return add_argument(self, *names, **options)

        def stop(self, args=None, namespace=None):
            raise Parsed

        patch.setattr(argparse._ActionsContainer, "add_argument", record)
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        for program in (*PROJECT["scripts"], "tfds_naturel.scenes", "tfds_naturel.scenes.twins", *SCRIPTS):
            if program not in TRAIN:
                with pytest.raises(Parsed):
                    main_of(program)([])
        with pytest.raises(Parsed):  # OpenCLIP's own trainer
            importlib.import_module("open_clip_train.params").parse_args([])
    text = (ROOT / "naturel_jax" / "main.py").read_text() + (
        ROOT / "naturel_jax" / "cli" / "config_flags.py"
    ).read_text()
    return flags | {f"--{name}" for name in re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", text)} | {"--help"}


SCRIPTS = (
    "proofs.record",
    "proofs.stale",
    "proofs.precision",
    "proofs.rehearse",
    "proofs.soak",
    "perf.exchange",
    "perf.objectives",
    "perf.pipeline",
    "perf.builder",
)
OTHERS = {"--strict", "--flags_with_underscores"}  # mkdocs; a rule of style
OTHERS |= {"--gpus-per-task", "--dependency"}  # SLURM
OTHERS |= {"--env", "--down", "--retry-until-up"}  # sky


def test_flags_named_in_text_exist():
    known = known_flags() | OTHERS
    assert {"--benchmarks_dir", "--workdir", "--siglip", "--devices"} <= known
    for page in PAGES:
        for text in re.findall(r"`([^`\n]+)`", documents.prose(page)):
            for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", text):
                assert flag in known or flag.startswith("--config"), f"{page.name}: {flag} in `{text}`"


def test_page_lists_every_command_and_extra():
    page = (ROOT / "docs/reference/commands.md").read_text()
    for name in PROJECT["scripts"]:
        module = re.search(rf"`{name}` \| `([\w.]+)`", page)
        assert module, f"{name} is not in docs/reference/commands.md"
        assert main_of(name) is main_of(module[1])
    install = (ROOT / "docs/install.md").read_text()
    assert all(f"`{extra}`" in install for extra in PROJECT["optional-dependencies"])


# ---- Config fields ---------------------------------------------------------------------------------------------------


def has_field(kind: object, names: list[str]) -> bool:
    if not names:
        return True
    if get_origin(kind) is get_origin(Mapping[str, int]):
        inner = get_args(kind)[1]
        return has_field(TERMS.get(names[0]) if inner is Any else inner, names[1:])
    if not dataclasses.is_dataclass(kind):
        return False
    hints = get_type_hints(kind)
    return names[0] in hints and has_field(hints[names[0]], names[1:])


@of_page
def test_config_fields_exist(page):
    for text in documents.code(page):
        for dotted in re.findall(r"(?<![\w./])(?:--)?config\.([a-z_0-9]+(?:\.[a-z_0-9]+)*)(?![\w(]|\.json|\.py)", text):
            names = dotted.split(".")
            if names[-1] in ("json", "py", "update", "load", "base") or names[0] in ("load", "base", "Config"):
                names = [name for name in names if name not in ("json", "py", "update", "load", "base")]
            assert has_field(c.Config, names), f"{page.name}: config.{dotted}"


# ---- Files, tests, links ---------------------------------------------------------------------------------------------


FOLDERS = ("naturel_jax", "tfds_naturel", "tests", "docs", "launch", "perf", "proofs", "configs", ".ci", ".github")


WRITTEN = {"proofs/ring_memory.md"}  # by a command on the page


@of_page
def test_files_and_tests_exist(page):
    tests = {path.name: path.read_text() for path in ROOT.glob("tests/**/*.py")}
    python = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    written = {block.file for block in documents.blocks(page)} | {"mine.py", "c.py"}
    for text in re.findall(r"`([^`\n]+)`", documents.prose(page)):
        for path in re.findall(rf"(?<![\w./:-])(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*\w", text):
            assert any(ROOT.glob(path)) or path in WRITTEN, f"{page.name}: {path}"
        for name, test in re.findall(r"(?<![\w/])(\w+\.py)(?:::(\w+))?", text):
            assert name in python | written, f"{page.name}: {name}"
            assert not test or f"def {test}" in tests[name], f"{page.name}: {name}::{test}"


@of_page
def test_internal_links_hold(page):
    for target in documents.links(page):
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or path.suffix == ".webp" or anchor in documents.anchors(path), f"{page.name}: {target}"


def test_site_lists_every_page():
    """Links of the site stay inside it: a page links to no file outside docs/."""
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in nav, f"{page} is not in mkdocs.yml"
        for target in documents.links(page):
            assert (page.parent / target.partition("#")[0]).resolve().is_relative_to(ROOT / "docs"), (page, target)


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w/.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    texts = [line for page in PAGES for line in documents.code(page)]
    texts += [(ROOT / name).read_text() for name in (".github/workflows/ci.yml", ".pre-commit-config.yaml", ".ci/run")]
    named = {target for text in texts for target in re.findall(r"(?:^|[`;: ])make ((?!PYTHON)[\w/.-]+)", text)}
    assert {"demo", "test", "docs", "lint"} <= named <= targets, named - targets


def test_workflow_and_issue_forms_are_valid():
    """The keys that GitHub requires, and the versions that the package admits."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert all({"runs-on", "timeout-minutes", "steps"} <= job.keys() for job in workflow["jobs"].values())
    _, python, tests = workflow["jobs"]["oldest"]["steps"]
    assert python["with"]["python-version"] == documents.project()["requires-python"].removeprefix(">=")
    assert tests["run"] == "make test-oldest"
    for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= form.keys()
            ids = [part["id"] for part in form["body"]]
            assert len(set(ids)) == len(ids) and all("label" in part["attributes"] for part in form["body"])


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    wrapped = [line for line in lines if not line.startswith(("|", "<!--"))]
    assert len(lines) <= 100 and max(map(len, wrapped)) <= 119


def test_pictures_are_small_and_shown():
    """A picture that exists in a dark version is shown in both."""
    text = "".join(page.read_text() for page in PAGES)
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs/assets").iterdir() if path.stem != "site"}
    shown = set(re.findall(r"assets/(\w+\.(?:svg|webp)(?:#only-\w+)?)", text))
    assert {name.partition("#")[0] for name in shown} == sizes.keys()
    assert max(sizes.values()) < 120_000 and sum(sizes.values()) < 600_000
    for name in (name for name in sizes if "_dark" in name):
        assert {f"{name}#only-dark", f"{name.replace('_dark', '')}#only-light"} <= shown
    assert not re.search(r"!\[\s*\]", text), "a picture without a description"


def test_site_loads_nothing_from_other_servers():
    """Formulas are MathML, the font is the reader's."""
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)  # without what `make docs` installs
    loaded = config["extra_css"] + config.get("extra_javascript", [])
    assert all((ROOT / "docs" / file).is_file() for file in loaded) and config["theme"]["font"] == "false"
    assert "formulas" in config["markdown_extensions"]


# ---- What pages claim ------------------------------------------------------------------------------------------------


def rows(page: str, start: str) -> list[list[str]]:
    """The cells of the first table after ``start``."""
    text = (ROOT / page).read_text()
    text = text[text.index(start) :]
    table = re.search(r"(^\|.*\n)+", text, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table]


def test_every_benchmark_is_described():
    patterns = [name for row in rows("docs/benchmarks.md", "| name") for name in re.findall(r"`([\w*]+)`", row[0])]
    names = [name for pattern in patterns for name in fnmatch.filter(BENCHMARKS, pattern)]
    assert sorted(names) == sorted(BENCHMARKS)
    languages = [name.removeprefix("crossmodal3600_") for name in fnmatch.filter(BENCHMARKS, "crossmodal3600_*")]
    text = " ".join((ROOT / "docs/benchmarks.md").read_text("utf-8").split())
    assert f"The languages' codes: {', '.join(languages)}." in text


def test_chance_is_that_of_the_rules():
    """``tests/benchmarks/test_chance.py`` has the chance of the rules."""
    text = " ".join(row[2] for row in rows("docs/benchmarks.md", "| name"))

    def of(chance: Chance, outcome: str, captions: int) -> float:
        return chance[outcome](Item("", (Image("", bytes),), ("",) * captions))

    expected = rules.GROUPS | {"pair": rules.PAIR["right"]} | hard_positives.CHANCE
    options = {"five": 5, "A and B": 4, "four": 4, "two": 2, "ten": 10}
    expected |= {name: of(rules.FIRST, "right", count) for name, count in options.items()}
    expected |= {name: of(rules.WORDINGS, name, 3) for name in rules.WORDINGS} | {"pairs": 0.25**2, "sets": 0.25**4}
    for name, chance in expected.items():
        (claimed,) = set(re.findall(rf"\b{name} (\d/\d+)", text))
        assert float(Fraction(claimed)) == pytest.approx(chance), name


def test_derived_pages_are_up_to_date():
    pages = runpy.run_path(str(ROOT / ".ci/pages.py"))
    tutorial, executed = ((ROOT / "docs/tutorial").with_suffix(end).read_text() for end in (".md", ".ipynb"))
    assert executed == pages["notebook"](tutorial, executed), "run `make pages`"
    assert (ROOT / "docs/reference/config.md").read_text() == pages["config_page"](), "run `make pages`"
    diagram = runpy.run_path(str(ROOT / ".ci/diagram.py"))["batch_and_ring"]()
    assert (ROOT / "docs/assets/batch_and_ring.svg").read_text() == diagram, "run `make pages`"
    # Matplotlib draws a little differently from version to version; the description has the values.
    drawn = ElementTree.parse(ROOT / "docs/assets/exchange.svg").find(".//{*}description").text
    table = exchange.table(exchange.KIND, exchange.WIDTH, exchange.ROWS, exchange.CHIPS)
    assert drawn == table, "run `make pages`"


def test_notebook_is_the_tutorial():
    """Its cells have been executed, and what the page shows of their outputs is there."""
    notebook = json.loads((ROOT / "docs/tutorial.ipynb").read_text())
    page = ROOT / "docs/tutorial.md"
    cells = [("".join(cell["source"]), cell["cell_type"]) for cell in notebook["cells"]]
    found = [text.removeprefix("%%bash\n").strip() for text, kind in cells if kind == "code"]
    expected = [block.text.strip() for block in documents.blocks(page) if block.language != "text"]
    assert found == expected
    text = re.sub(r"\s+", " ", " ".join(text for text, kind in cells if kind == "markdown"))
    words = re.sub(r"!\[[^]]*\]\(.*?\)", "", documents.prose(page))  # without pictures
    assert text.strip() == re.sub(r"\s+", " ", words).strip()
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    printed = {line.rstrip() for output in outputs for line in "".join(output.get("text", "")).splitlines()}
    shown = {line for block in documents.blocks(page, "text") for line in block.text.splitlines()}
    assert shown and shown <= printed, "run `make pictures`, and show what it printed"


def test_ruff_finds_the_blocks_clean(tmp_path):
    """Python of the pages, as files."""
    for page in PAGES:
        for n, block in enumerate(documents.blocks(page, "python")):
            (tmp_path / f"{page.stem.lower()}_{n}.py").write_text(block.text)
    ruff = shutil.which("ruff") or str(Path(sys.executable).with_name("ruff"))
    select = ["--isolated", "--select", "E,F,W", "--ignore", "F821,F401,E402", "--line-length", "120"]
    done = subprocess.run([ruff, "check", *select, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_quoted_messages_are_those_of_the_code():
    """What the first column of the table of trouble quotes, between its "..." and values."""
    texts = [(ROOT / "Makefile").read_text()]
    for path in (path for package in ("naturel_jax", "tfds_naturel") for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts.append("\0".join(p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)))
    rows = [line.split("|")[1] for line in (ROOT / "docs/trouble.md").read_text().splitlines() if line.startswith("|")]
    quoted = [part for row in rows for quote in re.findall("`(.+?)`", row) for part in re.split(r"\.{3}|'.*?'", quote)]
    assert len(quoted) > 8
    assert [part for part in quoted if not any(part.strip() in text for text in texts)] == []


def test_every_mistake_is_described():
    described = {row[0].strip("`"): row[1] for row in rows("docs/evaluate.md", "| `--mistakes` |")}
    assert list(described) == list(mistakes.MISTAKES)
    for name, mistake in mistakes.MISTAKES.items():
        assert described[name].startswith(mistake.what), name
