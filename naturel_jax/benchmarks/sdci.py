"""sDCI: photos and parts of them, each with summaries of a dense description and false ones (Urbanek et al., CVPR 2024,
arXiv 2312.08578). Files and lines are those of github.com/facebookresearch/DCI, dataset/, 3d95af6.

Shape letters: B images of a batch, K captions of each.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from naturel_jax.benchmarks.benchmark import Benchmark, Chance, Image, Item, Metric, Origin, Outcomes, Source
from naturel_jax.benchmarks.files import BenchmarkError, Folder, crop, load_json, safe_name, unusable
from naturel_jax.data.images.decode import decoded
from tfds_naturel.common.errors import UserError

SOURCE = Source(
    "CC BY-NC; SA-1B images under their own licence",
    "https://github.com/facebookresearch/DCI (dci.tar.gz; the photos are in SA-1B's sa_000138.tar)",
    "sdci/splits.json, sdci/complete/, sdci/photos/",
    origins=(Origin("SA-1B", "https://arxiv.org/abs/2312.08578"),),
)
BATCH = 8  # images whose captions are told apart
MIN_SIDE, MARGIN = 224, 0.15  # of a part: pixels, and the share of them that is added on each side
SCORES = ("caption", "negative")


class Variant(NamedTuple):
    """``parts``: whether parts of photos count; ``hardest``: the false summary is the one of all kinds that CLIP
    prefers, not the first with swapped words; ``captions``: K.
    """

    parts: bool = True
    hardest: bool = False
    captions: int = 1


VARIANTS = {  # run_clip_dense_cap_eval.py:91-120
    "all_swaps": Variant(),
    "all_swaps_pick5": Variant(captions=5),
    "base_swaps": Variant(parts=False),
    "all_hardest": Variant(hardest=True),
}
_Entry = tuple[Image, list[str], str]  # with the true and the false summaries


def read(folder: Path) -> Benchmark:
    """Reads the test split of ``sdci/splits.json``, a list of files in ``sdci/complete/``, and ``sdci/photos/``. An
    item is a batch of images in that order, as in the official code.
    """
    root, photos = folder / "sdci", Folder(folder / "sdci" / "photos")
    names, problems = file_names(root, "test"), list[str]()
    load = functools.lru_cache(maxsize=1)(lambda path: load_json(path, dict))  # a file is read for all variants
    found: dict[str, list[_Entry]] = {name: [] for name in VARIANTS}
    for name in names:
        for variant, entries in found.items():
            try:
                entries += list(_entries(load(root / "complete" / safe_name(name)), VARIANTS[variant], photos))
            except (UserError, OSError) as error:
                problems.append(f"{variant}, complete/{name!a:.80}: {error}")
            except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
                problems.append(f"{variant}, complete/{name!a:.80}: not in the official form ({error!a:.80})")
    items = tuple(item for name in VARIANTS for item in _batches(name, found[name]))
    metrics = [Metric(f"sdci/{score}", score, where=("variant", "all_swaps"), weighted=True) for score in SCORES]
    for name in VARIANTS:
        metrics += [Metric(f"sdci/{s}/{name}", s, where=("variant", name), weighted=True) for s in SCORES]
    return Benchmark("sdci", items, outcomes, metrics, problems=problems, chance=CHANCE)


def file_names(root: Path, *splits: str) -> list[str]:
    """The names of the files of these splits in ``root/splits.json``, by default of all. Raises FileNotFoundError and
    BenchmarkError."""
    path, names = root / "splits.json", list[str]()
    listed = load_json(path, dict)
    for split in splits or listed:
        some = listed.get(split)
        if not isinstance(some, list) or not all(isinstance(name, str) and name.isprintable() for name in some):
            raise BenchmarkError(f"{path}: {split!a:.20} is {some!a:.80}, expected a list of file names")
        names += some
    if len(distinct := set(map(PurePosixPath, names))) < len(names):
        raise BenchmarkError(f"{path}: has {len(names):,} names of {len(distinct):,} files; download it again")
    return names


def _entries(record: dict[str, Any], variant: Variant, photos: Folder) -> Iterator[_Entry]:
    """A photo and its parts (dense_image.py:148-260, impl.py:86-140)."""
    summaries, negatives = record.get("summaries"), record.get("negatives")
    if summaries is None or negatives is None or (variant.parts and len(negatives) == 1):
        return
    photo = photos.image(record["image"])
    places = [(photo, "base")]
    if variant.parts:
        with decoded(photo.read()) as opened:
            width, height = opened.width, opened.height
        for part in record["mask_data"].values():
            (x0, y0), (x1, y1) = ((at["x"], at["y"]) for at in map(part["bounds"].get, ("topLeft", "bottomRight")))
            if min(x1 - x0, y1 - y0) >= MIN_SIDE:
                dx, dy = int((x1 - x0) * MARGIN), int((y1 - y0) * MARGIN)
                left, top = max(x0 - dx, 0), max(y0 - dy, 0)
                box = crop(left, top, min(x1 + dx, width) - left, min(y1 + dy, height) - top)
                places.append((photos.image(record["image"], box), f"m-{part['idx']}-sc"))
    if len({key for _, key in places}) < len(places):
        raise BenchmarkError(f"{record['image']!a:.80} has several parts of one idx; download it again")
    for image, key in places:
        true = [summaries[key]] if isinstance(summaries[key], str) else list(summaries[key][: variant.captions])
        scores = record["clip_scores"][key]
        if variant.hardest:  # of equals, the last
            kinds = negatives[key].items()
            ranked = [(scores[f"{kind}_{n}"], text) for kind, texts in kinds for n, text in enumerate(texts)]
            false = sorted(ranked, key=lambda pair: pair[0])[-1][1]
        else:
            false = negatives[key]["swaps"][0]
        if not all(isinstance(text, str) for text in (*true, false)) or unusable([*true, false]):
            raise BenchmarkError(f"summaries of {key!a:.20} are {[*true, false]!a:.80}, expected strings")
        yield image, true, false


def _batches(name: str, entries: Sequence[_Entry]) -> Iterator[Item]:
    captions = VARIANTS[name].captions
    kept = [(image, true, false) for image, true, false in entries if len(true) >= captions]
    for start in range(0, len(kept), BATCH):
        images, true, false = zip(*kept[start : start + BATCH], strict=True)
        texts = (*(text for texts in true for text in texts), *false)
        yield Item(f"{name}/{start}", images, texts, {"variant": name}, weight=len(images))


def outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """Shares of a batch's images (run_clip_dense_cap_eval.py:57-74). ``caption``: the lowest of an image's captions is
    above all of the others', of equals the first counts; ``negative``: it is above the image's false one, strictly.
    """
    found = []
    for item, s in zip(items, cosines, strict=True):
        size = np.arange(len(item.images))
        s_BBK = s[:, : -len(size)].reshape(len(size), len(size), -1)
        lowest_B, highest_BB = s_BBK[size, size].min(axis=1), s_BBK.max(axis=2)
        highest_BB[size, size] = lowest_B
        false_B = s[:, -len(size) :][size, size]
        others = np.where(np.eye(len(size), dtype=bool), -np.inf, highest_BB).max(axis=1)
        tie = float(((lowest_B == others) | (lowest_B == false_B)).any())
        found.append(((highest_BB.argmax(axis=1) == size).mean(), (lowest_B > false_B).mean(), tie))
    return dict(zip((*SCORES, "tie"), np.array(found).T, strict=True))


def _captions(item: Item) -> int:
    return len(item.captions) // len(item.images) - 1


CHANCE: Chance = {
    "caption": lambda item: 1 / math.comb(len(item.images) * _captions(item), _captions(item)),
    "negative": lambda item: 1 / (_captions(item) + 1),
}
