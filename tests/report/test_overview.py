"""Families of columns, forgetting, agreement and clip_benchmark's form, against expectations written by hand."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from naturel_jax.benchmarks.benchmark import Metric
from naturel_jax.cli import evaluation
from naturel_jax.evaluators.results import Result
from naturel_jax.report import clip_benchmark, overview, plots, report
from naturel_jax.report.contents import Change
from naturel_jax.report.tables import BLIND, CHANCE, MEASURED, Cell, ModelRow
from tests.report.test_report import save
from tfds_naturel.common.errors import UserError

METRICS = {
    "NatuRel": ["naturel/simple", "naturel_contrast/complex_group"],
    "Zero-shot classification": ["zeroshot/dtd/top1", "birds/top1"],
    "Retrieval": ["coco_retrieval/image_to_text@1", "mine/image_to_text@1", "mine/text_to_image@1"],
    "Groups of two images and two captions": ["winoground/text", "winoground/group", "naturalbench_retrieval/group"],
    "Pairs and choices": ["coco_order/precision@1", "spec_text_to_image/accuracy", "vsr/accuracy"],
}
OTHERS = ["zeroshot/dtd/top5", "birds/mean_per_class", "mine/image_to_text@10"]  # in no family
OTHERS += ["vsr/relation/on", "winoground/text/Both"]


def row(name: str, kind: str = MEASURED, **scores: float) -> ModelRow:
    return ModelRow(name, kind, {metric.replace("__", "/"): Cell(value) for metric, value in scores.items()})


def changes(base: ModelRow, model: ModelRow) -> dict[str, dict[str, Change]]:
    """Those of a model in the scores of both, the same on each resample."""
    found = {name: model.cells[name].value - cell.value for name, cell in base.cells.items() if name in model.cells}
    return {model.name: {name: Change(value, np.full(2, value)) for name, value in found.items()}}


def test_every_column_is_in_one_family():
    every = [*(metric for metrics in METRICS.values() for metric in metrics), *OTHERS]
    assert {family.title: names for family, names in overview.columns(every).items()} == METRICS


def test_families_have_chance_and_the_best_blind_baseline():
    scores = {f"b{n}__accuracy": n / 10 for n in range(overview.FEW)}
    assert overview.families([row("CLIP", **scores)]) == [], "the tables of a few are enough"
    rows = [row("CLIP", **scores, vsr__accuracy=0.7), row("chance", CHANCE, vsr__accuracy=0.5)]
    rows += [row("n-grams", BLIND, vsr__accuracy=0.6), row("longer caption", BLIND, vsr__accuracy=0.4)]
    rows = [replace(one, cells=one.cells | {"order/ties": one.cells["vsr/accuracy"]}) for one in rows]
    (pairs,) = overview.families(rows)
    assert pairs.head == ("score", "items", "CLIP", "chance", "best blind") and pairs.plot
    assert [cell.value for cell in pairs.rows[-2][2:]] == [0.7, 0.5, 0.6]
    assert [cell.value for cell in pairs.rows[-1][2:]] == [0.7, 0.5, 0.4], "of ties, less is better"


def test_forgetting_is_the_change_since_the_base_in_the_columns_of_both():
    clip = row("CLIP", zeroshot__dtd__top1=0.5, vsr__accuracy=0.5, bla__accuracy=0.5)
    tuned = row("NegCLIP", zeroshot__dtd__top1=0.4, vsr__accuracy=0.6, bla__accuracy=0.8, cola__group=0.9)
    clip, tuned = (  # more ties are no gain
        replace(one, cells=one.cells | {"coco_order/ties": Cell(value)}) for one, value in ((clip, 0.0), (tuned, 0.9))
    )
    bases = {"NegCLIP": "CLIP", "CLIP": "elsewhere"}
    (section,) = overview.forgetting([clip, tuned], bases, changes(clip, tuned))
    assert section.head == ("family", "NegCLIP since CLIP") and section.plot
    assert dict(section.rows)["Pairs and choices"] == "+0.200 (+0.200 to +0.200; 2)"
    assert dict(section.rows)["Zero-shot classification"] == "-0.100 (-0.100 to -0.100; 1)"
    without = {name: one for name, one in changes(clip, tuned)["NegCLIP"].items() if name != "bla/accuracy"}
    (section,) = overview.forgetting([clip, tuned], bases, {"NegCLIP": without})
    assert dict(section.rows)["Pairs and choices"] == "+0.100 (+0.100 to +0.100; 1)", "of bla, they share no item"
    (plain,) = overview.forgetting([clip, tuned], {}, {})
    assert not plain.rows and "change" not in plain.plot.text
    assert overview.forgetting([row("CLIP", vsr__accuracy=0.5)], {}, {}) == []


def test_photos_with_two_sets_of_prompts_count_once():
    """Of dtd, CLIP's prompts: pets, which only has SigLIP's, counts too."""
    clip, tuned = (
        row("CLIP", zeroshot__dtd__top1=0.5, zeroshot_siglip__dtd__top1=0.5, zeroshot_siglip__pets__top1=0.5),
        row("NegCLIP", zeroshot__dtd__top1=0.4, zeroshot_siglip__dtd__top1=0.1, zeroshot_siglip__pets__top1=0.3),
    )
    (section,) = overview.forgetting([clip, tuned], {"NegCLIP": "CLIP"}, changes(clip, tuned))
    assert dict(section.rows)["Zero-shot classification"] == "-0.150 (-0.150 to -0.150; 2)"
    agreement = overview.Agreement()
    for name, right in {"vsr": 1, "zeroshot": 1, "zeroshot_siglip": 0}.items():
        result = Result("CLIP", name, "", 1, None, 0, (), {}, {}, {"score": Metric(f"{name}/dtd/top1", "right")})
        models = {"CLIP": 1.0, "NegCLIP": float(right)}
        agreement.add([result], {model: [{"id": 0, "outcome/right": value}] for model, value in models.items()})
    (section,) = agreement.section(["CLIP", "NegCLIP"])
    assert section.rows[0][-1] == "1.00"


def test_changes_have_the_interval_of_paired_scores_on_shared_images(tmp_path, monkeypatch):
    """The normal interval of a mean over images, of the sum of their changes in all benchmarks: sugarcrepe and cola
    change alike, so it is not narrower for having both. Of bla, the model has 1,500 items of the base's 2,000, and the
    change is over these: each counts by its distance from their mean (the delta method)."""
    rng, drawn = np.random.default_rng(0), []
    monkeypatch.setattr(plots, "forgetting_against_gain", lambda points, change: drawn.append(points))
    old, more = rng.random((2, 2000)) < np.array([[0.5], [0.2]])
    fewer = (old & ~more)[:1500]
    right = {  # metric -> that of the base, and of the model
        **{"sugarcrepe/swap_obj": (old, old | more), "cola/accuracy": (old, old | more), "bla/accuracy": (old, fewer)},
        "mine/image_to_text@1": (old | more, old),
    }
    for metric, of_models in right.items():
        for model, right_N in zip(("CLIP", "NegCLIP"), of_models, strict=True):
            save(tmp_path, model, right_N, metric.split("/")[0], metrics=(Metric(metric, "right"),))
    report.write(tmp_path, bases={"NegCLIP": "CLIP"})
    pattern = r"^\| (Retrieval|Pairs and choices) \| (\S+) \((\S+) to (\S+); (\d)\) \|$"
    rows = re.findall(pattern, (tmp_path / "report.md").read_text(), re.MULTILINE)
    found = {name: [*map(float, rest)] for name, *rest in rows}
    more_N, of_bla_N, lost = 1.0 * (more & ~old), np.zeros(2000), 1.0 * fewer - old[:1500]
    of_bla_N[:1500] = (lost - lost.mean()) * 2000 / 1500
    for name, mean, values_N, columns in (
        ("Retrieval", -more_N.mean(), more_N, 1),
        ("Pairs and choices", (2 * more_N.mean() + lost.mean()) / 3, (2 * more_N + of_bla_N) / 3, 3),
    ):
        half = 1.96 * values_N.std() / np.sqrt(2000)
        assert found[name] == pytest.approx([mean, mean - half, mean + half, columns], abs=2e-3), name
    kept, gained = drawn[-1]["NegCLIP since CLIP"]
    shown = [round(x, 3) for cell in (kept, gained) for x in (cell.value, *cell.interval)]
    assert shown == [*found["Retrieval"][:3], *found["Pairs and choices"][:3]]


def test_kappa_by_hand():
    share, kappa = overview.share_and_kappa(np.array([[15, 10], [5, 20]]))  # expected: .4 * .5 + .6 * .5
    assert (share, kappa) == (pytest.approx(0.7), pytest.approx((0.7 - 0.5) / 0.5))
    assert np.isnan(overview.share_and_kappa(np.array([[0, 0], [0, 9]]))[1])


def test_agreement_is_the_mean_over_benchmarks():
    agreement, right = overview.Agreement(), {"CLIP": range(20), "SigLIP": range(30)}
    for name, models in {"cola": right, "vsr": right | {"SigLIP": range(10)}}.items():
        result = Result("CLIP", name, "", 40, None, 0, (), {}, {}, {"score": Metric(f"{name}/score", "right")})
        items = {model: [{"id": n, "outcome/right": float(n in of)} for n in range(40)] for model, of in models.items()}
        items["SigLIP"].append({"id": 40, "outcome/right": None})  # not scored
        agreement.add([result], items)
    always = {model: [{"id": 0, "outcome/right": 1.0}] for model in ("CLIP", "NegCLIP")}
    agreement.add([result], always)  # counts for the share of these two, whose kappa is not defined
    (section,) = agreement.section(["CLIP", "SigLIP"])
    assert section.rows == [["CLIP", "–", "0.75"], ["SigLIP", "0.50", "–"]]  # noqa: RUF001
    (section,) = agreement.section(["CLIP", "NegCLIP"])
    assert section.rows == [["CLIP", "–", "1.00"], ["NegCLIP", "–", "–"]]  # noqa: RUF001


def test_clip_benchmark_reads_its_own_form():
    """Fields and names as in its README and clip_benchmark/metrics/."""
    scores = {
        **{"zeroshot/dtd/top1": 0.5, "zeroshot/dtd/mean_per_class": 0.4, "coco_retrieval/image_to_text@5": 0.3},
        **{"crossmodal3600_de/text_to_image@5": 0.2, "winoground/text": 0.1, "winoground/group": 0.05},
        **{"sugarcrepe/swap_obj": 0.6, "mine/accuracy": 0.7, "mine/relation/on": 0.8},
    }
    values = {name: {"value": value} for name, value in scores.items()}
    found = map(json.loads, clip_benchmark.files([Result("A", "b", "", 1, 1, 0, (), values, {})]).values())
    named = {(row["dataset"], row["language"]): row for row in found}
    assert named["dtd", "en"] == {
        **{"dataset": "dtd", "model": "A", "pretrained": "", "task": "zeroshot_classification", "language": "en"},
        "metrics": {"acc1": 0.5, "mean_per_class_recall": 0.4},
    }
    assert named["mscoco_captions", "en"]["metrics"] == {"text_retrieval_recall@5": 0.3}
    assert named["crossmodal3600", "de"]["metrics"] == {"image_retrieval_recall@5": 0.2}
    assert named["winoground", "en"]["metrics"] == {"text_acc": 0.1, "acc": 0.05}
    assert named["sugar_crepe/swap_obj", "en"]["metrics"] == {"acc": 0.6}
    assert named["mine", "en"]["metrics"] == {"acc": 0.7, "relation/on": 0.8}


def test_clip_benchmark_has_no_two_data_sets_of_one_name():
    scores = {"zeroshot": "zeroshot/birds/top1", "birds": "birds/top1"}
    scores |= {name: f"{name}/text_to_image@1" for name in ("coco_retrieval", "mscoco_captions")}
    results = [Result("A", b, "", 1, 1, 0, (), {metric: {"value": 0.5}}, {}) for b, metric in scores.items()]
    found = [json.loads(content)["dataset"] for content in clip_benchmark.files(results).values()]
    assert found == ["zeroshot/birds", "birds", "coco_retrieval", "mscoco_captions"]


def test_a_baseline_is_a_model_of_the_evaluation(tmp_path):
    save(tmp_path, "CLIP", np.arange(4) < 2, metrics=(Metric("sugarcrepe/swap_obj", "right"),))
    assert evaluation.bases({"a": "hf:a"}, "CLIP", Path(tmp_path)) == {"a": "CLIP"}
    assert evaluation.bases({"a": "hf:a"}, "", Path(tmp_path)) == {}
    with pytest.raises(UserError, match="--baseline 'B' is not a model of this evaluation; expected one of: a, CLIP"):
        evaluation.bases({"a": "hf:a"}, "B", Path(tmp_path))
