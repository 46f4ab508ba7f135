"""Tables, published numbers and plots, against expectations written by hand."""

import pytest

from naturel_jax.report import plots, published, tables
from naturel_jax.report.tables import Scores


def test_markdown_tables_match_the_posters_layout():
    rows = {"CLIP": {"vg_relation/macro": 0.594, "winoground/text/Object": 1 / 3}, "a|b": {}}
    assert tables.markdown(tables.TABLE_1, rows) == (
        "**Table 1: Results of various models on various benchmarks**\n\n"
        "| Model | VG-Relations | NatuRel Simple | NatuRel Complex "
        "| Winoground (text) All | Winoground (text) Object |\n"
        "| :--- | ---: | ---: | ---: | ---: | ---: |\n"
        "| CLIP | 0.59 | – | – | – | 0.33 |\n"  # noqa: RUF001
        "| a\\|b | – | – | – | – | – |\n"  # noqa: RUF001
    )
    header = tables.markdown(tables.TABLE_2, {}).splitlines()[2]
    assert header == (
        "| Model | REPLACE Object | REPLACE Attribute | REPLACE Relation | SWAP Object | SWAP Attribute "
        "| ADD Object | ADD Attribute |"
    )


def test_further_benchmarks_get_a_table_each():
    rows = {
        "CLIP": {"winoground/image": 0.1, "mine/right": 0.5, "mine/right/on": 0.25, "zeroshot/birds/top1": 0.75},
        "B": {"mine/other": 0.125, "naturel_unseen/simple": 1.0},
    }
    mine, zeroshot, unseen = tables.tables_of(rows)[2:]
    assert tables.tables_of({})[:2] == list(tables.TABLES) == tables.tables_of(rows)[:2]
    assert tables.markdown(mine, rows) == (
        "**Further benchmarks: mine**\n\n"
        "| Model | right | other |\n"
        "| :--- | ---: | ---: |\n"
        "| CLIP | 0.50 | – |\n"  # noqa: RUF001
        "| B | – | 0.12 |\n"  # noqa: RUF001
    )
    assert [column.metric for column in zeroshot.columns] == ["zeroshot/birds/top1"], "there is no shorter name"
    assert unseen is tables.HELD_OUT
    assert r"\caption{Further benchmarks: mine}" in tables.latex_scores(mine, Scores(rows))


def test_cells_show_the_published_number_and_mark_incomplete_scores():
    scores = Scores(
        {"CLIP": {"winoground/text": 0.30, "naturel/simple": 0.5}, "new": {"winoground/text": 0.4}},
        {"CLIP": published.scores_of("CLIP")},
        frozenset({("CLIP", "naturel/simple")}),
    )
    assert scores.cell("CLIP", "winoground/text") == "0.30 (0.31, -0.01)"
    assert scores.cell("CLIP", "naturel/simple") == "0.50* (0.47, +0.03)"
    assert scores.cell("CLIP", "vg_relation/macro") == "– (0.59)"  # noqa: RUF001
    assert scores.cell("new", "winoground/text") == "0.40"
    nearly = Scores({"CLIP": {"winoground/text": 0.3099}}, {"CLIP": published.scores_of("CLIP")})
    assert nearly.cell("CLIP", "winoground/text") == "0.31 (0.31, +0.00)"


def test_published_numbers():
    # Copied by hand from the poster and from arXiv 2406.09388.
    assert published.POSTER["NegCLIP-AP"]["naturel/simple"] == 0.99
    assert published.POSTER["SigLIP-TP"]["naturel/complex"] == 0.31
    assert published.POSTER["NegCLIP-SP"]["sugarcrepe/add_att"] == 0.66
    assert "sugarcrepe/add_att" not in published.POSTER["SigLIP"]
    assert published.VL_COMPO["NegCLIP B/32"]["coco_order/precision@1"] == pytest.approx(0.8256)
    assert published.VL_COMPO["SigLIP SO400M/14"]["whatsup/B"] == pytest.approx(0.2843)
    assert published.scores_of("somebody's model") == {}


def test_latex_and_html_escape_names():
    scores = Scores({"50% & <b>_x": {"vg_relation/macro": 0.5}})
    latex, page = tables.latex_scores(tables.TABLE_1, scores), tables.html_scores(tables.TABLE_1, scores)
    assert r"50\% \& <b>\_x & 0.50 & -- & -- & -- & -- \\" in latex
    assert latex.count("&") == 3 + 5 + 5 + 1, "groups, headings, one row, and one escaped ampersand"
    assert "50% &amp; &lt;b&gt;_x" in page and "<b>" not in page
    assert '<th colspan="2">NatuRel</th>' in page


def test_plots_are_images(tmp_path):
    history = {"CLIP": [(0, {"naturel/simple": 0.5}), (10, {"naturel/simple": 0.9, "winoground/text": 0.3})], "B": []}
    assert plots.accuracy_over_training(history, tmp_path / "a.png")
    rows = {"CLIP": {f"vg_relation/relation/r{n}": n / 40 for n in range(40)}, "B": {"naturel/complex": 0.6}}
    assert plots.by_relation(rows, {f"vg_relation/relation/r{n}": n for n in range(40)}, tmp_path / "b.png")
    assert not plots.by_relation({"CLIP": {}}, {}, tmp_path / "none.png")
    rows = {"CLIP": {"naturel/complex": 0.5, "zeroshot/x/top1": 0.6}, "B": {"naturel/complex": 0.8}}
    assert plots.forgetting_against_gain(rows, tmp_path / "c.png")
    assert not plots.forgetting_against_gain({"B": rows["B"]}, tmp_path / "none.png")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png", "c.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    once = {"CLIP": [(0, {"naturel/simple": 0.5})]}
    assert not plots.accuracy_over_training(once, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
