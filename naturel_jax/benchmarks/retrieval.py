"""Retrieval on COCO, Flickr30k and the user's images: recall at 1, 5 and 10, in both directions. They measure what
fine-tuning forgets.

Shape letters: I images, C captions.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from naturel_jax.benchmarks import karpathy
from naturel_jax.benchmarks.benchmark import Benchmark, Chance, Entry, Image, Item, Metric, Outcomes

RANKS = (1, 5, 10)


def read(folder: Path, file: str, name: str, published: int) -> Benchmark:
    """Retrieval on the Karpathy split ``file``: COCO's test split has 5,000 images, Flickr30k's 1,000."""
    problems: list[str] = []
    images = karpathy.captioned_images(folder, file, problems)
    return benchmark(name, images, published, problems)


def benchmark(
    name: str, images: Sequence[tuple[str, Image, Sequence[str]]], published: int | None, problems: Sequence[str]
) -> Benchmark:
    """One item per image (id, image, captions); all items share one tuple of all captions.

    Image-to-text recall is the fraction of images, text-to-image recall the fraction of *captions* (each is one query,
    as in CLIP's and BLIP's evaluations), so in the latter an image is weighted by its number of captions.
    """
    captions = tuple(caption for _, _, own in images for caption in own)
    owners = {key: n for n, (key, _, _) in enumerate(images)}
    owner_C = np.repeat(np.arange(len(images)), [len(own) for _, _, own in images])
    items = tuple(Item(key, (image,), captions, weight=len(own)) for key, image, own in images)
    metrics = [Metric(f"{name}/image_to_text@{k}", f"image_to_text@{k}") for k in RANKS]
    metrics += [Metric(f"{name}/text_to_image@{k}", f"text_to_image@{k}", weighted=True) for k in RANKS]
    rule = recalls(owners, owner_C)
    return Benchmark(name, items, rule, metrics, published, problems, gallery=True, chance=_chance)


def _chance(items: Sequence[Item]) -> Chance:
    """Chance of each outcome of ``recalls``, over ``items``."""

    def first(rank: int, candidates: int) -> Callable[[Item], float]:
        """Chance that one of an image's captions is among the first ``rank`` of all."""
        drawn = min(rank, candidates)
        return lambda item: 1 - math.comb(candidates - int(item.weight), drawn) / math.comb(candidates, drawn)

    captions = sum(int(item.weight) for item in items)
    to_text: Chance = {f"image_to_text@{k}": first(k, captions) for k in RANKS}
    return {**to_text, **{f"text_to_image@{k}": min(1, k / max(len(items), 1)) for k in RANKS}}


def recalls(owners: dict[str, int], owner_C: np.ndarray) -> Callable[[Sequence[Item], Sequence[np.ndarray]], Outcomes]:
    """The scoring rule. ``owners``: item id -> index of the image; ``owner_C``: index of the image of each caption.

    Image to text: one of the image's captions is among the first k. Text to image: the fraction of the image's captions
    that have it among the first k. A caption or image that ties with a wrong one ranks behind it. Captions of missing
    images are not candidates.
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
        recall = {f"image_to_text@{k}": (ahead_I < k).astype(float) for k in RANKS}
        recall["tie"] = ((s_IC == best_I[:, None]) & ~own_IC).any(axis=1).astype(float)
        for k in RANKS:
            recall[f"text_to_image@{k}"] = (own_IC & (ahead_C < k)).sum(axis=1) / own_IC.sum(axis=1)
        return recall

    return outcomes


COCO = Entry(karpathy.COCO, functools.partial(read, file=karpathy.COCO_FILE, name="coco_retrieval", published=5_000))
FLICKR30K = Entry(
    karpathy.FLICKR30K,
    functools.partial(read, file=karpathy.FLICKR30K_FILE, name="flickr30k_retrieval", published=1_000),
)
