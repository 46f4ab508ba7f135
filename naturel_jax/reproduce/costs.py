"""What a reproduction downloads, the disk that it fills, and how long its stages take on two kinds of machine."""

import functools
import math
from typing import NamedTuple

import jax

from naturel_jax.benchmarks.registry import BENCHMARKS
from naturel_jax.devices.hardware import ACCELERATORS
from naturel_jax.models import flops, presets
from naturel_jax.models.two_tower import Model, TwoTowerConfig
from naturel_jax.reproduce.stages import MODEL, RECIPES, STAGES, Work
from tfds_naturel.open_images.releases import RELEASES

GB = 1e9

# Sizes of what cannot be counted before it is there, in bytes; means over files of the kind.
PHOTO = 300e3  # Open Images, longest side 1024
BUILT_PHOTO = 60e3  # re-encoded, short side 288
COCO_PHOTO = 165e3
WINOGROUND = 0.5 * GB  # allowed for; the hub does not say before one has signed in
TABLES = 0.1 * GB  # captions and lists of a benchmark
TAGGER = 13e6  # spaCy's model

# Images of a training source, where photos are not limited: of Open Images (about), of Karpathy's training split, of
# half of Winoground.
IMAGES = {"full": 100_000, "coco_order": 113_287, "winoground_part": 400}
CAPTIONS_OF_COCO = 5
EPOCHS, BATCH, SAVED = 5, 256, 500  # SAVED: steps between checkpoints
CAPTIONS = {"NegCLIP": 2, "NegCLIP-SP": 2, "NegCLIP-AP": 8, "SigLIP-TP": 4}  # of an image in a batch, at most
TOKENS = 24  # of the longest caption in a batch, where the text tower trims them (CLIP's)
STARTS = {"SigLIP-TP": "hf:google/siglip-base-patch16-224"}  # row -> what it starts from, where it is not CLIP:
CLIP = "hf:openai/clip-vit-base-patch32"
ITEMS = {  # benchmark -> images or crops, captions
    "naturel, naturel_unseen and naturel_contrast": (10_000, 2_600),
    "winoground": (800, 800),
    "vg_relation": (23_937, 47_874),
    "vg_attribution": (28_748, 57_496),
    "sugarcrepe": (5_000, 15_022),
    "coco_retrieval": (5_000, 25_010),
}

# Rates that are assumed.
LINK = 100e6  # bytes/s: a link of 1 Gbit/s, nearly used
REQUESTS = {"photos": 200.0, "coco": 100.0, "benchmarks": 100.0}  # small files/s, 64 and 16 at a time
BUILT = 500.0  # photos/s; perf/builder.py measures it
TAGGED = 1_000.0  # captions/s: spaCy's small model, and four shuffles
DECODED = 700.0  # photos/s of a core; perf/pipeline.py measures it
CORES = 16
UTILIZATION = 0.2  # of the peak
START = 90.0  # seconds of a process that compiles
HIGHEST = 6  # passes of a float32 product in bfloat16, as evaluations compute it

HARDWARE = {"8 x H100": ("h100", 8), "TPU v5e, 2x4": ("v5e", 8)}  # one host each


class Download(NamedTuple):
    """One line of the plan; ``stage``: that which downloads it, or ``by hand``. ``bytes``: at most, or about."""

    what: str
    stage: str
    bytes: float
    licence: str
    where: str


class Cost(NamedTuple):
    """Of a stage: bytes that stay on the disk, and seconds on each machine of ``HARDWARE``."""

    disk: float
    seconds: dict[str, float]


def _images(work: Work, dataset: str) -> int:
    most = IMAGES[dataset]
    return most if dataset == "winoground_part" else min(work.budget.photos or most, most)


def _sizes(source: str) -> TwoTowerConfig | None:
    """The sizes of a published checkpoint, if its name says them."""
    return presets.PRESETS.get(source.partition(":")[0]) or presets.published(source)


@functools.cache
def weight_bytes(source: str) -> float:
    """The size of a published checkpoint in float32; 0 if its name does not say it."""
    sizes = _sizes(source)
    return 4.0 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(Model(sizes).shapes())) if sizes else 0.0


# ---- Downloads -------------------------------------------------------------------------------------------------------


def downloads(work: Work) -> list[Download]:
    """Everything that is downloaded, and what has to be put there by hand."""
    rows = [Download(file.name, "annotations", file.bytes, "CC BY 4.0", file.url) for file in RELEASES["v4"].files]
    images, pairs = _images(work, "full"), _images(work, "coco_order")
    photos, coco = f"{images:,} photos of Open Images", BENCHMARKS["coco_retrieval"].SOURCE
    rows.append(Download(photos, "photos", images * PHOTO, "CC BY 2.0, of each author", "open-images-dataset (AWS)"))
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
    "vg_relation": 1e6,  # the list of symmetric relations only
    "coco_retrieval": ITEMS["coco_retrieval"][0] * COCO_PHOTO + TABLES,
}
_BY_HAND = ("vg_relation", "vg_attribution", "whatsup")


def from_hub(work: Work) -> dict[str, float]:
    """Folder in the hub's cache -> bytes that it gets."""
    models = [one.source.removeprefix("hf:") for one in work.known.values() if one.source.startswith("hf:")]
    sizes = {f"models--{name.partition('@')[0].replace('/', '--')}": weight_bytes(f"hf:{name}") for name in models}
    return sizes | {"datasets--facebook--winoground": WINOGROUND}


# ---- Stages ----------------------------------------------------------------------------------------------------------


def costs(work: Work) -> dict[str, Cost]:
    """Stage -> what it costs."""
    rows = downloads(work)
    return {stage: _cost(work, stage, sum(row.bytes for row in rows if row.stage == stage)) for stage in STAGES}


def _cost(work: Work, stage: str, size: float) -> Cost:
    """``size``: what the stage downloads."""
    number = {
        "photos": _images(work, "full"),
        "coco": _images(work, "coco_order"),
        "benchmarks": ITEMS["sugarcrepe"][0] + ITEMS["coco_retrieval"][0],
    }
    fetching = max(size / LINK, number[stage] / REQUESTS[stage]) if stage in number else size / LINK
    if stage == "build":  # a photo is on the disk twice until all are sorted
        images = sum(_images(work, name) for name in IMAGES)
        seconds = images / BUILT + CAPTIONS_OF_COCO * _images(work, "coco_order") / TAGGED
        return Cost(2 * images * BUILT_PHOTO, dict.fromkeys(HARDWARE, seconds))
    if stage == "train":  # parameters and two moments; two checkpoints are kept while one is written
        disk = sum(min(3, 1 + _steps(work, row) // SAVED) * 3 * weight_bytes(STARTS.get(row, CLIP)) for row in RECIPES)
        return Cost(disk, {name: sum(_training(work, row, name) for row in RECIPES) for name in HARDWARE})
    if stage in ("known", "evaluate"):
        trained = [STARTS.get(row, CLIP) for row in RECIPES]
        models = trained if stage == "evaluate" else [one.source for one in work.known.values()]
        disk = sum(map(_embeddings, models))  # the weights are in the hub's cache
        return Cost(disk, {name: fetching + sum(_evaluating(one, name) for one in models) for name in HARDWARE})
    return Cost(size, dict.fromkeys(HARDWARE, fetching))


def _steps(work: Work, row: str) -> int:
    return work.budget.steps or math.ceil(EPOCHS * sum(_images(work, name) for name in RECIPES[row][1]) / BATCH)


def _embeddings(source: str) -> float:
    """Bytes of the cache of a model's embeddings."""
    sizes = _sizes(source)
    return 4.0 * sizes.embed_dim * sum(map(sum, ITEMS.values())) if sizes else 0.0


def _training(work: Work, row: str, hardware: str) -> float:
    """Seconds of a recipe: the larger of what the towers and what the decoding of images take."""
    source = STARTS.get(row, CLIP)
    sizes = _sizes(source)
    assert sizes is not None  # they are presets
    tokens = TOKENS if source == CLIP else None
    step = flops.step(sizes, BATCH + 1, CAPTIONS[row] * BATCH, tokens).model / _rate(hardware)
    return START + _steps(work, row) * max(step, BATCH / (DECODED * CORES))


def _evaluating(source: str, hardware: str) -> float:
    """Seconds of the evaluation of a model; 0 if its sizes are not known."""
    if (sizes := _sizes(source)) is None:
        return 0.0
    images, captions = (sum(counts) for counts in zip(*ITEMS.values(), strict=True))
    towers = HIGHEST * flops.step(sizes, images, captions).forward / _rate(hardware)
    return START + towers + images / (DECODED * CORES)


def _rate(hardware: str) -> float:
    """FLOP/s of all devices, in bfloat16."""
    kind, number = HARDWARE[hardware]
    return number * UTILIZATION * ACCELERATORS[kind].peak["bfloat16"]
