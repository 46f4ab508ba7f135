"""Hard positives: a caption, another that means the same, and a false one, all a word or two apart (Kamath et al.,
ECCV 2024): REPLACE, made from VL-CheckList, and SWAP, from VG-Attribution.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from naturel_jax.benchmarks import aro
from naturel_jax.benchmarks.benchmark import Benchmark, Chance, Entry, Item, Metric, Outcomes, Source, Verified
from naturel_jax.benchmarks.files import BenchmarkError, Fields, Folder, Record, crop, load_json, read_items

REPLACE_FILES = {name: f"vl_checklist_{name}.json" for name in ("attributes", "relations")}
SWAP_FILES = {"swap": "visual_genome_attribution.json"}
_BOTH = ("image_path", "true_caption", "false_caption")  # fields of a record of ``data``, and of ``swapped_data``
FIELDS: Fields = {f"{prefix}{field}": str for prefix in ("", "swapped_") for field in _BOTH}
SCORES = ("original", "augmented", "brittleness")
_FILES = "https://raw.githubusercontent.com/amitakamath/hard_positives/33addaae84b58d96dc8e9251b61d497c536ed23d"
_PAPER = "https://github.com/amitakamath/hard_positives"


def read(folder: Path, name: str, files: dict[str, str], crops: bool, published: int) -> Benchmark:
    """Reads ``hard_positives/{data,swapped_data}/<file>``: the same records with the caption and with the hard positive
    as the true one. A score is the mean over files. REPLACE's images are whole, and their paths begin with ``data/``;
    SWAP's are the ``crops`` of VG-Attribution, from its folder of images."""
    images = Folder(folder / "aro" / "images", "visual_genome") if crops else Folder(folder / "hard_positives")

    def item(subset: str, key: str, row: Record) -> Item:
        if any(row[field] != row[f"swapped_{field}"] for field in ("image_path", "false_caption")):
            raise BenchmarkError("data and swapped_data have another image or false caption")
        captions = (row["true_caption"], row["swapped_true_caption"], row["false_caption"])
        box = crop(*(row[f"bbox_{side}"] for side in "xywh")) if crops else None
        return Item(f"{subset}/{key}", (images.image(row["image_path"], box),), captions, {"subset": subset})

    problems: list[str] = []
    items = []
    for subset, file in files.items():
        rows, fields = _rows(folder / "hard_positives", file), {**FIELDS, **(aro.FIELDS if crops else {})}
        items += read_items(file, rows, fields, functools.partial(item, subset), problems)
    metrics = [Metric(f"{name}/{score}", score, macro="subset") for score in SCORES]
    if len(files) > 1:
        metrics += [Metric(f"{name}/{score}/{s}", score, where=("subset", s)) for score in SCORES for s in files]
    return Benchmark(name, items, outcomes, metrics, published, problems, true_captions=2, chance=CHANCE)


def _rows(root: Path, file: str) -> Iterator[tuple[str, Any]]:
    """(number, the record of ``data`` with that of ``swapped_data``, whose fields begin with ``swapped_``)."""
    original, swapped = (load_json(root / part / file, list) for part in ("data", "swapped_data"))
    if len(original) != len(swapped):
        raise BenchmarkError(f"{file}: data has {len(original):,} records and swapped_data {len(swapped):,}")
    for n, (a, b) in enumerate(zip(original, swapped, strict=True)):
        both = isinstance(a, dict) and isinstance(b, dict)
        yield str(n), a | {f"swapped_{field}": value for field, value in b.items()} if both else None


def outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """One image, a caption c, its hard positive p and a false caption n. ``original``: c is above n; ``augmented``: so
    is p; ``brittleness``: n is between c and p, so the model tells apart two captions that mean the same. All strict.
    """
    c, p, n = np.stack(cosines)[:, 0].T
    found = (c > n, (c > n) & (p > n), ((c > n) & (n > p)) | ((p > n) & (n > c)), (c == n) | (p == n))
    return {name: right.astype(float) for name, right in zip((*SCORES, "tie"), found, strict=True)}


CHANCE: Chance = {"original": 1 / 2, "augmented": 1 / 3, "brittleness": 1 / 3}


def _source(files: dict[str, str], images: str, verified: Verified | None = None) -> Source:
    paths = [f"{part}/{file}" for part in ("data", "swapped_data") for file in files.values()]
    return Source(
        "no licence stated; Visual Genome images CC BY 4.0",
        _PAPER,
        f"hard_positives/{{data,swapped_data}}/{{{','.join(files.values())}}}, {images}",
        {f"hard_positives/{path}": f"{_FILES}/{path}" for path in paths},
        origins=(aro.ORIGINS[0]._replace(source=_PAPER),),
        verified=verified,
    )


REPLACE = Entry(
    _source(
        REPLACE_FILES,
        "hard_positives/data/{VG_100K,VG_100K_2}/",
        Verified("19af05917dd16e6ac426053a2cdf0ee1ca0d756d628f9119bb9e597df29fdbd8", 27_443, "2026-11-29"),
    ),
    functools.partial(read, name="hard_positives_replace", files=REPLACE_FILES, crops=False, published=27_443),
)
SWAP = Entry(
    _source(SWAP_FILES, "aro/images/"),
    functools.partial(read, name="hard_positives_swap", files=SWAP_FILES, crops=True, published=28_748),
)
