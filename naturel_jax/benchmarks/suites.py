"""The benchmarks that are rows of a table: where each has its images and captions, and which rule scores it. A new one
of pairs, choices, groups or retrieval is one row here and needs no code.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from naturel_jax.benchmarks import coco, rules
from naturel_jax.benchmarks.benchmark import Entry, HubFiles, Item, Origin, Outcomes, Overlap, Source, Verified
from naturel_jax.benchmarks.files import load_json, safe_name
from naturel_jax.benchmarks.table import CHOICE, GROUPS, PAIR, Format, Rule, entry

_TWO_IMAGES, _TWO_CAPTIONS = ("{image_0}", "{image_1}"), ("{caption_0}", "{caption_1}")


# ---- Cola: captions that have objects and attributes in common (Ray et al., NeurIPS 2023) ----------------------------

COLA_FILE = "cola/COLA_multiobjects_matching_benchmark.json"
COLA_IMAGES = "https://cs-people.bu.edu/array/data/vg_gqa_images/"
_COLA = "https://raw.githubusercontent.com/arijitray1993/COLA/1fa52fba9cff4e6ffb7bfcf3550838748347273b/data"


def _cola(rows: Iterable[Any]) -> Iterator[Any]:
    """The file's records are lists of a link, a caption, a link and a caption."""
    for row in rows:
        if isinstance(row, list) and len(row) == 4 and all(isinstance(cell, str) for cell in row):
            row = dict(zip(("image_0", "caption_0", "image_1", "caption_1"), row, strict=True))
            row |= {name: row[name].removeprefix(COLA_IMAGES) for name in ("image_0", "image_1")}
        yield row


def cola_images(folder: Path) -> dict[str, str]:
    """Path -> URL of Cola's images on the authors' server; other addresses are not followed."""
    rows = [row for row in load_json(folder / COLA_FILE, list) if isinstance(row, list)]
    links = {cell for row in rows for cell in row[::2] if isinstance(cell, str) and cell.startswith(COLA_IMAGES)}
    return {f"cola/images/{safe_name(link.removeprefix(COLA_IMAGES))}": link for link in sorted(links)}


COLA = entry(
    "cola",
    Format(
        GROUPS,
        {"": COLA_FILE},
        ("cola/images",),
        _TWO_IMAGES,
        _TWO_CAPTIONS,
        records=_cola,
        collection="visual_genome",
        published=210,
    ),
    Source(
        "MIT; Visual Genome images CC BY 4.0",
        "https://github.com/arijitray1993/COLA",
        f"{COLA_FILE}, cola/images/",
        {COLA_FILE: f"{_COLA}/{PurePosixPath(COLA_FILE).name}"},
        images=cola_images,
        origins=(Origin("Visual Genome", "https://arxiv.org/abs/2305.03689", coco.VISUAL_GENOME),),
        verified=Verified("e2846dcc958e3277813ca572bce53db96fd5dd65caaa57ccd20dc1ce51d73ec0", 210, "2026-11-29"),
    ),
)

# ---- NaturalBench-Retrieval: photos and captions that models confuse (Li et al., NeurIPS 2024) -----------------------

NATURALBENCH = entry(
    "naturalbench_retrieval",
    Format(
        GROUPS,
        {"": "naturalbench_retrieval/metadata.json"},
        ("naturalbench_retrieval/images",),
        _TWO_IMAGES,
        _TWO_CAPTIONS,
    ),
    Source(
        "no licence stated for the captions; images under the licences of their datasets",
        "https://huggingface.co/datasets/BaiqiL/NaturalBench (NaturalBench-Retrieval.zip)",
        "naturalbench_retrieval/metadata.json, naturalbench_retrieval/images/",
        origins=(
            Origin(
                "Flickr30k, DOCCI",
                "https://arxiv.org/abs/2410.14669",
                (Overlap("Flickr30k", "the same images; the split is not stated"),),
            ),
        ),
    ),
)

# ---- MMVP-VLM: pairs of photos that CLIP sees as the same (Tong et al., CVPR 2024) -----------------------------------


def _mmvp(rows: Iterable[dict[str, str]]) -> Iterator[Any]:
    """A record for every two lines, whose columns are a number, a category and a statement, under any name. Both images
    are in the folder of the first line's category. The first has an odd number (evaluate_vlm.py:75, 4d6eaeb), the
    second the next; a line without its other is a record alone, which lacks fields."""
    names = ("id_0", "category", "text_0", "id_1", "category_1", "text_1")
    first: list[str] = []
    for row in rows:
        cells = list(row.values())[:3]
        if first and _number(first) % 2 == 1 and _number(cells) == _number(first) + 1:
            yield dict(zip(names, [*first, *cells], strict=False))
            first = []
            continue
        if first:
            yield dict(zip(names, first, strict=False))
        first = cells
    if first:
        yield dict(zip(names, first, strict=False))


def _number(cells: Sequence[str]) -> int:
    return int(cells[0]) if cells and re.fullmatch("[0-9]{1,9}", cells[0]) else -2  # begins no pair, and ends none


def mmvp(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """``right``: each caption picks its image of the two, in a tie the second
    (github.com/tsb0601/MMVP, scripts/evaluate_vlm.py:73-91, 4d6eaeb). Besides, the scores of ``two_by_two``."""
    s = np.stack(cosines)
    right = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] >= s[:, 0, 1])
    return rules.two_by_two(items, cosines) | {"right": right.astype(float)}


MMVP = entry(
    "mmvp_vlm",
    Format(
        Rule(mmvp, {"accuracy": "right", **GROUPS.scores}, {"right": 1 / 4, **rules.GROUPS}),
        {"": "mmvp_vlm/Questions.csv"},
        ("mmvp_vlm/MLLM_VLM Images",),
        ("{category}/{id_0}.jpg", "{category}/{id_1}.jpg"),
        ("a photo of {text_0}", "a photo of {text_1}"),
        part="category",
        part_field="category",
        records=_mmvp,
        published=135,
    ),
    Source(
        "MIT",
        "https://huggingface.co/datasets/MMVP/MMVP_VLM",
        "mmvp_vlm/Questions.csv, mmvp_vlm/MLLM_VLM Images/<category>/",
        hub=HubFiles("MMVP/MMVP_VLM", "*", "mmvp_vlm"),
        origins=(Origin("photos of ImageNet and LAION-Aesthetics", "https://arxiv.org/abs/2401.06209"),),
    ),
)

# ---- SVO-Probes: which of two photos shows a sentence (Hendricks and Nematzadeh, ACL Findings 2021) ------------------

_SVO_PARTS = {"subj_neg": "subject", "verb_neg": "verb", "obj_neg": "object"}


def _svo(rows: Iterable[dict[str, str]]) -> Iterator[Any]:
    """Records with one kind of negative: others are in no score of the official code
    (github.com/google-deepmind/svo_probes, probing_image_text_models.ipynb, 206219e)."""
    for row in rows:
        parts = [part for field, part in _SVO_PARTS.items() if row.get(field, "").lower() == "true"]
        if len(parts) == 1:
            yield row | {"negative": parts[0]}
        elif not _SVO_PARTS.keys() <= row.keys():
            yield row


SVO = entry(
    "svo_probes",
    Format(
        PAIR,
        {"": "svo_probes/svo_probes.csv"},
        ("svo_probes/images",),
        ("{pos_image_id}.jpg", "{neg_image_id}.jpg"),
        ("{sentence}",),
        part="negative",
        part_field="negative",
        records=_svo,
    ),
    Source(
        "CC BY 4.0; photos of the web under their own licences",
        "https://storage.googleapis.com/dm-mmt-models/svo_probes.csv (its images at the addresses in it)",
        "svo_probes/svo_probes.csv, svo_probes/images/<image id>.jpg",
        origins=(Origin("photos found on the web", "https://arxiv.org/abs/2106.09141"),),
    ),
)

# ---- CREPE: a caption against others with one change (Ma et al., CVPR 2023) ------------------------------------------
# Rule: github.com/RAIVNLab/CREPE, crepe_eval_utils.py:60-76, crepe_prod_eval_clip.py:36-41, 1fa81c4.

CREPE_IMAGES = ("visual_genome/VG_100K", "visual_genome/VG_100K_2")


def _crepe(name: str, part: str, files: Mapping[str, str], negatives: str) -> Entry:
    row = Format(
        CHOICE,
        {value: f"crepe/{file}" for value, file in files.items()},
        CREPE_IMAGES,
        ("{image_id}.jpg",),
        ("{caption}",),
        more_captions=negatives,
        box=("x", "y", "width", "height"),
        part=part,
        collection="visual_genome",
    )
    source = Source(
        "no licence stated; Visual Genome images CC BY 4.0",
        "https://github.com/RAIVNLab/CREPE (the zip files in data/)",
        f"{', '.join(row.files.values())}, {', '.join(CREPE_IMAGES)}",
        origins=(Origin("Visual Genome", "https://arxiv.org/abs/2212.07796", coco.VISUAL_GENOME),),
    )
    return entry(name, row, source)


def _productivity(kind: str) -> Entry:
    folder = f"prod_hard_negatives/{kind}"
    files = {str(n): f"{folder}/prod_vg_hard_negs_{kind}_complexity_{n}.csv" for n in range(4, 13)}
    return _crepe(f"crepe_{kind}", "complexity", files, "hard_negs")


def _systematicity(kind: str) -> Entry:
    """Compounds seen or unseen in LAION-400M: of CREPE's three pretraining sets, the one that its ViTs have seen."""
    files = {
        seen: f"syst_hard_negatives/syst_vg_hard_negs_{seen}_compounds_in_laion.csv" for seen in ("seen", "unseen")
    }
    return _crepe(f"crepe_systematicity_{kind}", "compounds", files, f"valid_hard_negs_{kind}")


# ---- SPEC: generated images that differ in size, position, existence or number (Peng et al., CVPR 2024) --------------
# Rule: github.com/wjpoom/SPEC, spec/models/clip_wrapper.py:46-52, 88-93, spec/eval.py:43-52, ad982a4.

SPEC_PARTS = ("absolute_size", "relative_size", "absolute_spatial", "relative_spatial", "existence", "count")


def _spec(direction: str, **fields: Any) -> Entry:
    files = {part: f"spec/{part}/{direction}.json" for part in SPEC_PARTS}
    row = Format(CHOICE, files, ("spec/{part}",), answer="label", part="subset", mean_of_parts=True, **fields)
    source = Source(
        "Apache-2.0; images generated",
        "https://huggingface.co/datasets/wjpoom/SPEC (data.zip)",
        f"spec/<part>/{direction}.json and the images beside it, for the parts {', '.join(SPEC_PARTS)}",
        origins=(Origin("generated images", "https://arxiv.org/abs/2312.00081"),),
    )
    return entry(f"spec_{direction.replace('2', '_to_')}", row, source)


# ---- BLA: two true and two false sentences on a photo (Chen et al., EMNLP 2023) --------------------------------------

BLA_PARTS = ("active_passive", "coordination", "relative_clause")


def _bla(rows: Iterable[Any]) -> Iterator[Any]:
    """Records with the captions of the first group, which is the only one that the official code scores."""
    for row in rows:
        groups = row.get("caption_group") if isinstance(row, dict) else None
        first = groups[0] if isinstance(groups, list) and groups else None
        yield first | {"image_id": row.get("image_id")} if isinstance(first, dict) else row


def bla(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """Two true and two false captions: the share that the ranking puts on the right side, of equals the first in the
    file ahead (github.com/shin-ee-chen/BLA, evaluation_models/clip/utils.py:24-59, b19c0af)."""
    s = np.stack(cosines)[:, 0]
    highest = np.argsort(-s, axis=1, kind="stable")[:, :2]
    tie = (s[:, :2, None] == s[:, None, 2:]).any(axis=(1, 2))
    return {"right": (highest < 2).mean(axis=1), "tie": tie.astype(float)}


BLA = entry(
    "bla",
    Format(
        Rule(bla, {"accuracy": "right"}, {"right": 1 / 2}, true=2),
        {part: f"bla/annotations/{part}_captions.json" for part in BLA_PARTS},
        ("bla/images",),
        ("{image_id}.jpg",),
        ("{True1}", "{True2}", "{False1}", "{False2}"),
        records=_bla,
        collection="visual_genome",
        part="task",
        mean_of_parts=True,
    ),
    Source(
        "MIT; Visual Genome images CC BY 4.0",
        "https://github.com/shin-ee-chen/BLA (its Dropbox link)",
        f"bla/annotations/{{{','.join(BLA_PARTS)}}}_captions.json, bla/images/",
        origins=(Origin("Visual Genome", "https://arxiv.org/abs/2310.15061", coco.VISUAL_GENOME),),
    ),
)

# ---- COCO-Counterfactuals: generated pairs of which a noun differs (Le et al., NeurIPS 2023) -------------------------

COCO_COUNTERFACTUALS = entry(
    "coco_counterfactuals",
    Format(
        GROUPS,
        {"": "coco_counterfactuals/data/examples.jsonl"},
        ("coco_counterfactuals/data/images.zip",),
        ("{image_0}.jpg", "{image_1}.jpg"),
        _TWO_CAPTIONS,
    ),
    Source(
        "CC BY 4.0",
        "https://huggingface.co/datasets/Intel/COCO-Counterfactuals",
        "coco_counterfactuals/data/examples.jsonl, coco_counterfactuals/data/images.zip",
        hub=HubFiles("Intel/COCO-Counterfactuals", "data/*", "coco_counterfactuals"),
        origins=(Origin("generated images", "https://openreview.net/forum?id=7AjdHnjIHX"),),
    ),
)

# ---- DOCCI: long descriptions of similar photos (Onoe et al., ECCV 2024) ---------------------------------------------

DOCCI_FILE = "docci/docci_descriptions.jsonlines"
DOCCI = entry(
    "docci_retrieval",
    Format(
        None,
        {"": DOCCI_FILE},
        ("docci/images",),
        ("{image_file}",),
        ("{description}",),
        only=("split", "test"),
        published=5_000,
    ),
    Source(
        "CC BY 4.0",
        "https://google.github.io/docci (docci_images.tar.gz)",
        f"{DOCCI_FILE}, docci/images/",
        {DOCCI_FILE: f"https://storage.googleapis.com/docci/data/{PurePosixPath(DOCCI_FILE).name}"},
        origins=(Origin("photos of its own", "https://arxiv.org/abs/2404.19753"),),
    ),
)

# ---- Crossmodal-3600: photos with captions in 36 languages (Thapliyal et al., EMNLP 2022) ----------------------------

LANGUAGES = (
    *("ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "he", "hi", "hr", "hu", "id", "it"),
    *("ja", "ko", "mi", "nl", "no", "pl", "pt", "quz", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh"),
)


def _in(language: str, rows: Iterable[Any]) -> Iterator[Any]:
    """Records with the captions in one language."""
    for row in rows:
        own = row.get(language) if isinstance(row, dict) else None
        yield {**row, "captions": own["caption"]} if isinstance(own, dict) and "caption" in own else row


def _crossmodal(language: str) -> Entry:
    row = Format(
        None,
        {"": "crossmodal3600/captions.jsonl"},
        ("crossmodal3600/images",),
        ("{image/key}.jpg",),
        more_captions="captions",
        records=functools.partial(_in, language),
        collection="open_images",
        published=3_600,
    )
    source = Source(
        "captions CC BY 4.0; Open Images photos CC BY 2.0",
        "https://google.github.io/crossmodal-3600 (captions.zip and images.tgz)",
        "crossmodal3600/captions.jsonl, crossmodal3600/images/",
        origins=(
            Origin("Open Images", "https://arxiv.org/abs/2205.12522", (Overlap("Open Images", "the same images"),)),
        ),
    )
    return entry(f"crossmodal3600_{language}", row, source)


ENTRIES = {
    "cola": COLA,
    "naturalbench_retrieval": NATURALBENCH,
    "mmvp_vlm": MMVP,
    "svo_probes": SVO,
    **{f"crepe_{kind}": _productivity(kind) for kind in ("atom", "swap", "negate")},
    **{f"crepe_systematicity_{kind}": _systematicity(kind) for kind in ("atom", "comp")},
    "spec_image_to_text": _spec("image2text", images=("{query}",), more_captions="keys"),
    "spec_text_to_image": _spec("text2image", captions=("{query}",), more_images="keys"),
    "bla": BLA,
    "coco_counterfactuals": COCO_COUNTERFACTUALS,
    "docci_retrieval": DOCCI,
    **{f"crossmodal3600_{language}": _crossmodal(language) for language in LANGUAGES},
}
