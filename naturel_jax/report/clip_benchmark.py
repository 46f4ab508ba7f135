"""Scores in the form that clip_benchmark writes, one file for each model and data set, for scripts that read it; its
``clip_benchmark build`` makes a table of them (github.com/LAION-AI/CLIP_benchmark, clip_benchmark/cli.py:83-113 and
clip_benchmark/metrics/, 48de38c).
"""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from naturel_jax.evaluators.results import Result, file_name

FOLDER = "clip_benchmark"


class Form(NamedTuple):
    """What clip_benchmark calls the metrics that match ``metric``: templates of its data set, task and metric."""

    metric: str
    dataset: str
    task: str
    name: str
    language: str = "en"


_CHOICE, _RETRIEVAL, _CLASSES = "image_caption_selection", "zeroshot_retrieval", "zeroshot_classification"
FORMS = (
    Form(r"(?:zeroshot/)?(.+)/top(\d)", r"\1", _CLASSES, r"acc\2"),
    Form(r"(?:zeroshot/)?(.+)/mean_per_class", r"\1", _CLASSES, "mean_per_class_recall"),
    Form(r"crossmodal3600_(.+)/image_to_text(@\d+)", "crossmodal3600", _RETRIEVAL, r"text_retrieval_recall\2", r"\1"),
    Form(r"crossmodal3600_(.+)/text_to_image(@\d+)", "crossmodal3600", _RETRIEVAL, r"image_retrieval_recall\2", r"\1"),
    Form(r"(.+)/image_to_text(@\d+)", r"\1", _RETRIEVAL, r"text_retrieval_recall\2"),
    Form(r"(.+)/text_to_image(@\d+)", r"\1", _RETRIEVAL, r"image_retrieval_recall\2"),
    Form(r"sugarcrepe/((?:add|replace|swap)_.+)", r"sugar_crepe/\1", _CHOICE, "acc"),
    Form(r"(.+)/(text|image)", r"\1", _CHOICE, r"\2_acc"),
    Form(r"(mmvp_vlm)/group", r"\1", _CHOICE, "group"),  # it has an accuracy, too
    Form(r"(.+)/(?:group|accuracy)", r"\1", _CHOICE, "acc"),
    Form(r"(?s)([^/]*)/?(.*)", r"\1", _CHOICE, r"\2"),  # what clip_benchmark does not have keeps its name
)
_DATASETS = {"coco_retrieval": "mscoco_captions", "flickr30k_retrieval": "flickr30k"}  # those it calls otherwise


def files(results: Sequence[Result]) -> dict[str, str]:
    """File name -> its JSON. A model is called by its name alone, so ``pretrained`` is ''. A data set keeps our name
    where clip_benchmark's is that of another benchmark, such as one of the user's."""
    benchmarks = {result.benchmark for result in results}
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        for metric, score in result.scores.items():
            form, match = next((form, match) for form in FORMS if (match := re.fullmatch(form.metric, metric)))
            dataset, name, language = (match.expand(text) for text in (form.dataset, form.name, form.language))
            dataset = _DATASETS.get(dataset, dataset)
            if dataset != result.benchmark and dataset in benchmarks:
                dataset = metric.rpartition("/")[0]
            parts = (dataset, result.model, language, form.task)
            row = {"dataset": dataset, "model": result.model, "pretrained": "", "task": form.task, "metrics": {}}
            of_file = found.setdefault(f"{'+'.join(map(file_name, parts))}.json", row | {"language": language})
            of_file["metrics"][name] = score["value"]
    return {name: json.dumps(content) for name, content in found.items()}
