"""Cost of a reproduction: downloads and disk space."""

import functools
import math
from typing import NamedTuple

import jax

from naturel_jax.benchmarks.registry import BENCHMARKS
from naturel_jax.models import presets
from naturel_jax.models.two_tower import Model, TwoTowerConfig
from naturel_jax.reproduce.stages import BATCH, MODEL, RECIPES, STAGES, Work
from tfds_naturel.open_images.releases import PHOTO_BYTES, RELEASES

GB = 1e9

# Estimated sizes in bytes, for what cannot be measured before it is downloaded; means over such files.
BUILT_PHOTO = 60e3  # re-encoded, short side 288
COCO_PHOTO = 165e3
WINOGROUND = 0.5 * GB  # an allowance; the hub does not show the size before sign-in
TABLES = 0.1 * GB  # captions and lists of one benchmark
TAGGER = 13e6  # spaCy's model

# Images of each training source without a limit on photos: Open Images (about), Karpathy's training split, half of
# Winoground.
IMAGES = {"full": 100_000, "coco_order": 113_287, "winoground_part": 400}
EPOCHS, SAVED = 5, 500  # SAVED: steps between checkpoints
STARTS = {"SigLIP-TP": "hf:google/siglip-base-patch16-224"}  # row -> initial weights, if not CLIP
CLIP = "hf:openai/clip-vit-base-patch32"
ITEMS = {  # benchmark -> images or crops, captions
    "naturel, naturel_unseen and naturel_contrast": (10_000, 2_600),
    "winoground": (800, 800),
    "vg_relation": (23_937, 47_874),
    "vg_attribution": (28_748, 57_496),
    "sugarcrepe": (5_000, 15_022),
    "coco_retrieval": (5_000, 25_010),
}


class Download(NamedTuple):
    """One line of the plan; ``stage``: the stage that downloads it, or ``by hand``. ``bytes``: a bound or estimate."""

    what: str
    stage: str
    bytes: float
    licence: str
    where: str


def _images(work: Work, dataset: str) -> int:
    most = IMAGES[dataset]
    return most if dataset == "winoground_part" else min(work.budget.photos or most, most)


def _sizes(source: str) -> TwoTowerConfig | None:
    """The model sizes of a published checkpoint; None if its name does not say them."""
    return presets.PRESETS.get(source.partition(":")[0]) or presets.published(source)


@functools.cache
def weight_bytes(source: str) -> float:
    """The size of a published checkpoint in float32; 0 if its name does not say it."""
    sizes = _sizes(source)
    return 4.0 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(Model(sizes).shapes())) if sizes else 0.0


# ---- Downloads -------------------------------------------------------------------------------------------------------


def downloads(work: Work) -> list[Download]:
    """Everything that is downloaded, and everything that must be provided by hand."""
    rows = [Download(file.name, "annotations", file.bytes, "CC BY 4.0", file.url) for file in RELEASES["v4"].files]
    images, pairs = _images(work, "full"), _images(work, "coco_order")
    photos, coco = f"{images:,} photos of Open Images", BENCHMARKS["coco_retrieval"].SOURCE
    rows.append(
        Download(photos, "photos", images * PHOTO_BYTES, "CC BY 2.0, of each author", "open-images-dataset (AWS)")
    )
    training = f"{pairs:,} images of COCO's training split"
    rows.append(Download(training, "coco", pairs * COCO_PHOTO + TABLES, coco.licence, coco.where))
    rows.append(Download(f"spaCy's {MODEL}, if it is not installed", "coco", TAGGER, "MIT", "https://spacy.io"))
    for name, size in _BENCHMARKS.items():
        source = BENCHMARKS[name].SOURCE
        rows.append(Download(name, "benchmarks", size, source.licence, source.where))
    for key, one in work.known.items():
        what, stage, where = key, "known", one.source
        if one.by_hand:
            what, stage, where = f"{work.file_of(one)} ({key})", "by hand", one.by_hand
        rows.append(Download(what, stage, weight_bytes(one.source), "that of its repository", where))
    for name in _BY_HAND:
        source = BENCHMARKS[name].SOURCE
        what = f"{name}, in {work.root}/files: {source.needs}"
        rows.append(Download(what, "by hand", 0.0, source.licence, source.where))
    return rows


_BENCHMARKS = {
    "sugarcrepe": ITEMS["sugarcrepe"][0] * COCO_PHOTO + TABLES,
    "winoground": WINOGROUND,
    "vg_relation": 1e6,  # only the list of symmetric relations
    "coco_retrieval": ITEMS["coco_retrieval"][0] * COCO_PHOTO + TABLES,
}
_BY_HAND = ("vg_relation", "vg_attribution", "whatsup")


def from_hub(work: Work) -> dict[str, float]:
    """Folder in the hub's cache -> bytes downloaded into it."""
    models = [one.source.removeprefix("hf:") for one in work.known.values() if one.source.startswith("hf:")]
    sizes = {f"models--{name.partition('@')[0].replace('/', '--')}": weight_bytes(f"hf:{name}") for name in models}
    return sizes | {"datasets--facebook--winoground": WINOGROUND}


# ---- Stages ----------------------------------------------------------------------------------------------------------


def disks(work: Work) -> dict[str, float]:
    """Stage -> bytes that stay on the disk."""
    rows = downloads(work)
    sizes = {stage: sum(row.bytes for row in rows if row.stage == stage) for stage in STAGES}
    trained = [STARTS.get(row, CLIP) for row in RECIPES]
    return sizes | {
        "build": 2 * BUILT_PHOTO * sum(_images(work, name) for name in IMAGES),  # twice until all are sorted
        "known": sum(_embeddings(one.source) for one in work.known.values()),  # the weights are in the hub's cache
        "train": sum(_run(work, row) for row in RECIPES),
        "evaluate": sum(map(_embeddings, trained)),
    }


def _run(work: Work, row: str) -> float:
    """Bytes of a recipe's checkpoints, each with parameters and two moments; two are kept while a third is written."""
    images = sum(_images(work, name) for name in RECIPES[row][1])
    steps = work.budget.steps or math.ceil(EPOCHS * images / BATCH)
    return min(3, 1 + steps // SAVED) * 3 * weight_bytes(STARTS.get(row, CLIP))


def _embeddings(source: str) -> float:
    """Bytes of a model's embedding cache."""
    sizes = _sizes(source)
    return 4.0 * sizes.embed_dim * sum(map(sum, ITEMS.values())) if sizes else 0.0
