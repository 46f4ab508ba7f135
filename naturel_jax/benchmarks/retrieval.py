"""Retrieval on the Karpathy test splits of COCO and Flickr30k: recall at 1, 5 and 10, both ways; it measures what
fine-tuning forgets.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric, Outcomes
from naturel_jax.benchmarks.order import captioned_images

RANKS = (1, 5, 10)


def read_coco(folder: Path) -> Benchmark:
    """From ``coco/coco_karpathy_test.json`` (5,000 images) and ``coco/val2014/``."""
    return _read(folder / "coco", "coco_karpathy_test.json", "coco_retrieval", 5_000)


def read_flickr30k(folder: Path) -> Benchmark:
    """From ``flickr30k/flickr30k_test.json`` (1,000 images) and ``flickr30k/flickr30k-images/``."""
    return _read(folder / "flickr30k", "flickr30k_test.json", "flickr30k_retrieval", 1_000)


def _read(root: Path, file: str, name: str, published: int) -> Benchmark:
    """One item per image; all items share one tuple of all captions."""
    problems: list[str] = []
    found = list(captioned_images(root, file, problems))
    captions = tuple(caption for _, own, _ in found for caption in own)
    owners = {key: n for n, (_, _, key) in enumerate(found)}
    owner_C = np.repeat(np.arange(len(found)), [len(own) for _, own, _ in found])
    items = tuple(Item(key, (image,), captions) for image, _, key in found)
    metrics = tuple(
        Metric(f"{name}/{way}@{k}", f"{way}@{k}") for way in ("image_to_text", "text_to_image") for k in RANKS
    )
    rule = recalls(owners, owner_C)
    return Benchmark(name, items, rule, metrics, published=published, problems=tuple(problems))


def recalls(owners: dict[str, int], owner_C: np.ndarray) -> Callable[[Sequence[Item], Sequence[np.ndarray]], Outcomes]:
    """The rule. ``owners``: item id -> number of the image; ``owner_C``: the image's number for each caption.

    Image to text: one of the image's captions is among the first k. Text to image: the share of the image's
    captions that have it among the first k. A caption or image that ties with a wrong one ranks behind it. Captions
    of images that are missing are no candidates.
    """

    def outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
        numbers = np.array([owners[item.id] for item in items])
        candidates = np.isin(owner_C, numbers)
        s_IC = np.concatenate(cosines)[:, candidates]
        own_IC = numbers[:, None] == owner_C[candidates]
        best_I = np.where(own_IC, s_IC, -np.inf).max(axis=1)
        ahead_I = ((s_IC >= best_I[:, None]) & ~own_IC).sum(axis=1)
        true_C = s_IC[own_IC.argmax(axis=0), np.arange(s_IC.shape[1])]
        ahead_C = ((s_IC >= true_C) & ~own_IC).sum(axis=0)
        found = {f"image_to_text@{k}": (ahead_I < k).astype(float) for k in RANKS}
        for k in RANKS:
            found[f"text_to_image@{k}"] = (own_IC & (ahead_C < k)).sum(axis=1) / own_IC.sum(axis=1)
        return found

    return outcomes
