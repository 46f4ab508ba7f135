"""Tables, published scores and plots, against expectations written by hand."""

import json
import re
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes

from naturel_jax.benchmarks.sugarcrepe import SUBSETS
from naturel_jax.report import overview, plots, published, tables
from naturel_jax.report.tables import BLIND, CHANCE, MEASURED, Cell, ModelRow


def row(name: str, kind: str = MEASURED, **cells: Cell | float) -> ModelRow:
    """A row; a metric's slashes are written as double underscores."""
    whole = {metric: cell if isinstance(cell, Cell) else Cell(cell) for metric, cell in cells.items()}
    return ModelRow(name, kind, {metric.replace("__", "/"): cell for metric, cell in whole.items()})


ROWS = [
    row("CLIP", vg_relation__macro=Cell(0.594, (0.57, 0.62), 23, incomplete=True), winoground__text__Object=1 / 3),
    row("a|b", vg_relation__macro=Cell(0.61, (0.6, 0.63), 23, best=True)),
    row("longer caption", BLIND, vg_relation__macro=0.5),
    row("chance", CHANCE, sugarcrepe__add_obj=0.5),
]
METRICS = ("vg_relation/macro", "winoground/text/Object")


def test_markdown_aligns_and_marks():
    (table,) = tables.tables_of(METRICS)
    assert tables.markdown(table, ROWS) == (
        "**Table 1: Results of various models on various benchmarks**\n\n"
        "| Model            |   VG-Relations | Winoground (text) Object |\n"
        "| :--------------- | -------------: | -----------------------: |\n"
        "| CLIP             |    0.59† ±0.03 |                     0.33 |\n"
        "| a\\|b             | **0.61** ±0.02 |                        – |\n"  # noqa: RUF001
        "| *longer caption* |           0.50 |                        – |\n"  # noqa: RUF001
    )


def test_poster_tables_have_its_columns():
    first, second, *further = tables.tables_of([column.metric for table in tables.TABLES for column in table.columns])
    assert (first, second) == tables.TABLES
    naturel = [column.metric.split("/")[0] for column in first.columns if column.group == "NatuRel"]
    beyond_text = ["naturel_contrast", "naturel_bindings", "naturel_positions"]
    assert naturel == [beyond_text[0], *beyond_text, "naturel", "naturel"]
    assert [table.caption.rpartition(" ")[2] for table in further] == beyond_text
    replaced = ["REPLACE Object", "REPLACE Attribute", "REPLACE Relation"]
    others = ["SWAP Object", "SWAP Attribute", "ADD Object", "ADD Attribute"]
    assert [f"{column.group} {column.heading}".strip() for column in second.columns] == replaced + others


def test_columns_are_those_measured_and_further_benchmarks_get_a_table_each():
    metrics = ["winoground/image", "mine/right", "mine/right/on", "zeroshot/birds/top1", "naturel_unseen/simple"]
    mine, zeroshot, unseen = tables.tables_of([*metrics, "mine/other"])
    assert mine.caption == "Further benchmarks: mine"
    assert [column.metric for column in mine.columns] == ["mine/right", "mine/other"]
    assert [column.metric for column in zeroshot.columns] == ["zeroshot/birds/top1"], "there is no shorter name"
    assert (unseen.caption, len(unseen.columns)) == (tables.HELD_OUT.caption, 1)
    assert tables.tables_of([]) == []


def test_latex_is_booktabs_and_escapes():
    (table,) = tables.tables_of(METRICS)
    names = [row("50% & <b>_x", vg_relation__macro=0.5), *ROWS]
    latex = tables.latex(table, names)
    assert r"50\% \& \textless{}b\textgreater{}\_x & 0.50 & -- \\" in latex
    assert r"CLIP & 0.59\dag{} {\scriptsize \textpm{}0.03} & 0.33 \\" in latex
    assert r"a\textbar{}b & \textbf{0.61} {\scriptsize \textpm{}0.02} & -- \\" in latex
    assert r"\cmidrule(lr){3-3}" in latex and r"\multicolumn{1}{c}{Winoground (text)} \\" in latex
    rules_ = [line for line in latex.splitlines() if line in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert rules_ == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"], "models, then baselines"
    assert latex.count("{") == latex.count("}")
    assert r"\caption{Results on SugarCrepe" in tables.latex(tables.TABLE_2, []), "LaTeX numbers its tables"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no TeX here")
def test_latex_compiles_within_the_width_of_the_text(tmp_path):
    names = [r"50% $x$ {a} <b>|\input{x}#[1]*", "_^~"]
    shown = tables.tables_of([column.metric for table in tables.TABLES for column in table.columns])
    rows = [row(name, vg_relation__macro=0.5) for name in names] + ROWS
    text = "".join(tables.latex(table, rows) for table in shown)
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "report.tex").write_text(f"{head}{text}\\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    log = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    assert log.returncode == 0, log.stdout
    assert "Overfull" not in log.stdout
    pages = subprocess.run(["pdftotext", "-raw", "report.pdf", "-"], cwd=tmp_path, text=True, capture_output=True)
    assert names[0] in pages.stdout


def test_html_escapes_and_names_its_cells():
    (table,) = tables.tables_of(METRICS)
    page = tables.html(table, [row("50% & <b>_x", vg_relation__macro=0.5), *ROWS])
    assert '<th scope="row">50% &amp; &lt;b&gt;_x</th>' in page and "<b>" not in page
    assert "<td>0.59†<small>0.57&ndash;0.62</small></td><td>0.33</td>" in page
    assert "<td><strong>0.61</strong><small>0.60&ndash;0.63</small></td>" in page
    assert '<tbody class="blind"><tr><th scope="row">longer caption</th>' in page
    assert '<th scope="colgroup" colspan="1">Winoground (text)</th>' in page


def test_published_numbers():
    # Copied by hand from the poster and from arXiv 2406.09388.
    scores = {row: one.scores for row, one in published.CHECKPOINTS.items()}
    assert scores["NegCLIP-AP (NatuRel poster)"]["naturel/simple"] == 0.99
    assert scores["SigLIP-TP (NatuRel poster)"]["naturel/complex"] == 0.31
    assert scores["NegCLIP-SP (NatuRel poster)"]["sugarcrepe/add_att"] == 0.66
    assert "sugarcrepe/add_att" not in scores["SigLIP (NatuRel poster)"]
    assert scores["SigLIP SO400M/14 (arXiv 2406.09388)"]["whatsup/B"] == 0.2843
    assert scores["FSC-CLIP B/32 on COCO (arXiv 2410.05210)"]["winoground/group"] == 0.095
    # Its means over SugarCrepe's subsets, as printed.
    means = {"CE-CLIP": 0.859, "DAC-LLM": 0.864, "CLoVe": 0.855, "TSVLC-RB": 0.778, "GNM-CLIP": 0.779}
    for model, mean in means.items():
        row = scores[f"{model} B/32 (arXiv 2406.09388)"]
        assert np.mean([row[f"sugarcrepe/{subset}"] for subset in SUBSETS]) == pytest.approx(mean, abs=0.00051)


NUMBERS = {  # of the items of a subset, from the benchmarks' papers and files
    **{f"winoground/{score}": 400 for score in ("text", "image", "group")},
    **{f"colorswap/{score}": 300 for score in ("text", "image", "group")},
    **dict(zip([f"sugarcrepe/{name}" for name in SUBSETS], (1652, 788, 1406, 245, 666, 2062, 692), strict=True)),
    **{"whatsup/A": 412, "whatsup/B": 408, "whatsup/coco_qa_one_obj": 2247, "whatsup/coco_qa_two_obj": 440},
    **{"whatsup/vg_qa_one_obj": 1160, "whatsup/vg_qa_two_obj": 291, "valse/existence": 505, "valse/plurals": 851},
    **{"valse/counting-hard": 868, "valse/counting-small-quant": 900, "valse/counting-adversarial": 691},
    **{"valse/relations": 535, "valse/action-replacement": 648, "valse/actant-swap": 949, "valse/foil-it": 943},
    **{"valse/coreference-standard": 708, "valse/coreference-hard": 104, "imagecode/static": 430},
    **{"imagecode/video": 1872, "imagecode/accuracy": 2302},
    **{
        f"{name}_retrieval/image_to_text@{k}": n
        for name, n in (("coco", 5000), ("flickr30k", 1000))
        for k in (1, 5, 10)
    },
    **{
        f"{name}_retrieval/text_to_image@{k}": n
        for name, n in (("coco", 25010), ("flickr30k", 5000))
        for k in (1, 5, 10)
    },
}


def test_scores_of_vl_compo_are_shares_of_as_many_items_as_ours():
    """With the four digits that are kept, a share of another number of items would not be one of these. Macro means
    are not shares."""
    compared = [one for one in published.CHECKPOINTS.values() if one.origin == "arXiv 2406.09388"]
    means = {"vg_relation/macro", "vg_attribution/macro"}
    assert {metric for one in compared for metric in one.scores} == NUMBERS.keys() | means
    for one in compared:
        for metric, number in NUMBERS.items():
            share = round(one.scores[metric] * number) / number
            assert one.scores[metric] == pytest.approx(share, abs=5.1e-5), (one.name, metric)
    for benchmark in ("sugarcrepe", "whatsup", "valse"):
        numbers = [number for metric, number in NUMBERS.items() if metric.startswith(f"{benchmark}/")]
        assert published.ITEM_SETS[benchmark].number == sum(numbers)


def test_checkpoints_are_recognised_by_where_they_lie():
    known = published.CHECKPOINTS.values()

    def name(source: str) -> str | None:
        found = published.find(source, known)
        return found and found.name

    for source in ("hf:openai/clip-vit-base-patch32", "hf:openai/clip-vit-base-patch32@main"):
        assert name(source) == "CLIP B/32"
    assert name("open_clip:laion/CLIP-ViT-B-32-laion2B-s34B-b79K") == "LAION-2B B/32"
    assert name("open_clip:timm/ViT-B-16-SigLIP") == "SigLIP B/16"
    assert name("negclip-b32:/weights/negclip.pth") == name("negclip-b32:negclip.pth") == "NegCLIP B/32"
    for source in (
        "hf:openai/clip-vit-base-patch32@a-branch",
        "hf:someone/clip-vit-base-patch32",
        "laion-b32:negclip.pth",
        "negclip-b32:epoch_5.pt",
        "run:runs/negclip_ap",
        "exported",
        "",
    ):
        assert name(source) is None, source
    run = published.Checkpoint("A", "run:runs/a", {}, "here")
    assert published.find("run:runs/a", [run]) is None, "what is trained here has no known score"


def test_published_rows_are_of_the_benchmarks_asked_for():
    rows = {r.name: r for r in published.rows(["winoground"])}
    assert len(rows) == 16 and all(r.kind == tables.PUBLISHED for r in rows.values())
    poster = {metric: cell.value for metric, cell in rows["CLIP (NatuRel poster)"].cells.items()}
    assert poster == {"winoground/text": 0.31, "winoground/text/Object": 0.36}
    assert rows["CLIP B/32 (arXiv 2406.09388)"].cells["winoground/group"].value == pytest.approx(0.0875)
    assert "naturel" not in published.ITEM_SETS, "the poster's items are not public"


def test_items_are_official_only_if_every_caption_is(monkeypatch):
    items = [{"id": str(n), "captions": [f"a cat {n}", f"a dog {n}"]} for n in range(3)]
    known = published.digest([(item["id"], item["captions"]) for item in items])
    monkeypatch.setitem(published.ITEM_SETS, "mine", published.ItemSet(3, known))
    assert published.is_official("mine", items)
    assert published.is_official("mine", items[::-1]), "their order does not matter"
    assert published.is_official("mine", [item | {"captions": [c.upper() for c in item["captions"]]} for item in items])
    assert not published.is_official("mine", items[:2])
    assert not published.is_official("mine", [*items[:2], items[2] | {"captions": ["a cat 2", "a cow 2"]}])
    assert not published.is_official("mine", [*items[:2], items[2] | {"id": "7"}])
    assert not published.is_official("naturel", items)
    monkeypatch.setitem(published.ITEM_SETS, "mine", published.ItemSet(3))
    assert not published.is_official("mine", items), "their number alone does not identify them"


def test_plots_are_images_and_elements_in_the_colours_of_a_page():
    clip = [(0, {"naturel/simple": 0.5}), (10, {"naturel/simple": 0.9, "winoground/text": 0.3})]
    history = {"<b>": [clip, clip], "B": [[]]}
    points = {"CLIP": (Cell(0.5), Cell(0.6, (0.5, 0.7)))}
    drawn = [plots.dots([row("A", x=Cell(0.5, (0, 1))), row("B", y=0.6)], {"x": "x", "y": "y"}, {"chance": {}})]
    drawn += [plots.accuracy_over_training(history), plots.forgetting_against_gain(points, change=True)]
    drawn += [plots.loss_over_training({"<b>": [[(n, 4.0) for n in range(1000)], []], "B": [[(3, 1.0)]]})]
    assert all(plot and plot.png.startswith(b"\x89PNG") for plot in drawn)
    for plot in drawn:
        element = ElementTree.fromstring(re.sub("xlink:", "", plot.svg))
        assert element.tag == "svg" and element.get("role") == "img" and "currentColor" in plot.svg
        assert all(f'id="{name}"' in plot.svg for name in re.findall(r'href="#([^"]*)"', plot.svg))
        assert "figure_1" not in plot.svg and "axes_1" not in plot.svg, "ids that all plots would have"
    assert "&lt;b&gt;" in drawn[1].svg and "<b>" not in drawn[1].svg and len(drawn[3].svg) < 40_000


def test_of_a_step_that_was_evaluated_again_the_last_score_is_drawn():
    first, old, new = ((step, {"naturel/simple": score}) for step, score in ((0, 0.5), (9, 0.95), (9, 0.55)))
    runs = ([first, old, new], [first, new], [old, new])
    both, last, one = (plots.accuracy_over_training({"A": [run]}) for run in runs)
    assert both and both == last and one is None


def test_nothing_to_plot():
    assert plots.accuracy_over_training({"CLIP": [[(0, {"naturel/simple": 0.5})]]}) is None, "a curve needs two points"
    assert plots.loss_over_training({"CLIP": [[(1, 4.0)]], "B": []}) is None
    assert plots.forgetting_against_gain({}, change=False) is None


def test_relations_are_drawn_with_their_intervals_and_numbers(monkeypatch):
    """What Matplotlib is asked to draw: the interval of each point, and n in its label."""
    drawn, errorbar, set_yticks = {}, Axes.errorbar, Axes.set_yticks

    def watched_errorbar(axes, values, heights, *, xerr, **style):
        drawn["points"] = np.concatenate([values, *xerr]).tolist()
        return errorbar(axes, values, heights, xerr=xerr, **style)

    def watched_yticks(axes, places, labels):
        drawn["labels"] = labels
        return set_yticks(axes, places, labels)

    monkeypatch.setattr(Axes, "errorbar", watched_errorbar)
    monkeypatch.setattr(Axes, "set_yticks", watched_yticks)
    assert overview.relations([row("A", vg_relation__relation__on=Cell(0.5, (0.4, 0.7), 7))])
    assert drawn == {"points": pytest.approx([0.5, 0.1, 0.2]), "labels": ["on (7)"]}


def test_changes_are_drawn_with_their_intervals(monkeypatch):
    drawn, errorbar = [], Axes.errorbar

    def watched(axes, x, y, *, xerr, yerr, **style):
        drawn.extend([*x, *y, *xerr, *yerr])
        return errorbar(axes, x, y, xerr=xerr, yerr=yerr, **style)

    monkeypatch.setattr(Axes, "errorbar", watched)
    plots.forgetting_against_gain({"A": (Cell(-0.1, (-0.3, 0.2)), Cell(0.5))}, change=True)
    assert np.hstack(drawn) == pytest.approx([-0.1, 0.5, 0.2, 0.3, 0, 0])


def test_digests_do_not_depend_on_json():
    """Lone surrogates, as a hostile file may have, are not an error."""
    assert published.digest([("0", [json.loads('"\\ud800"')])]) == published.digest([("0", ["?"])])
