"""ARO's COCO-Order and Flickr30k-Order: a caption against four shuffles of its words (Yuksekgonul et al.,
arXiv 2210.01936).
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from naturel_jax.benchmarks import karpathy, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Entry, Item, Metric, Outcomes
from tfds_naturel.captions.word_order import clean, shuffles, spacy_tags

# ARO's shuffles depend on a global generator; ours on (seed, image, caption), so they do not depend on what else is
# evaluated.
SEED = 1


def read(folder: Path, file: str, name: str, published: int) -> Benchmark:
    """One item per caption of the Karpathy split ``file``: COCO's test split has 25,010 captions of 5,000 images,
    Flickr30k's 5,000 of 1,000."""
    problems: list[str] = []
    items = []
    images = karpathy.captioned_images(folder, file, problems)
    tagged = iter(spacy_tags([caption for _, _, captions in images for caption in captions]))
    for key, image, captions in images:
        for n, caption in enumerate(captions):
            rng = np.random.default_rng((SEED, int(key), n))
            options = tuple(clean(option) for option in (caption, *shuffles(caption, next(tagged), rng)))
            items.append(Item(f"{key}/{n}", (image,), options))
    metrics = (Metric(f"{name}/precision@1", "right"), Metric(f"{name}/ties", "tie"), Metric(f"{name}/no_op", "no_op"))
    return Benchmark(name, items, outcomes, metrics, published, problems, true_captions=1, chance=rules.FIRST)


def outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """``no_op``: one of the shuffles left the caption unchanged, so the item cannot be wrong on that shuffle."""
    no_op = [item.captions[0] in item.captions[1:] for item in items]
    return rules.first_of_many(items, cosines) | {"no_op": np.array(no_op, float)}


COCO = Entry(karpathy.COCO, functools.partial(read, file=karpathy.COCO_FILE, name="coco_order", published=25_010))
FLICKR30K = Entry(
    karpathy.FLICKR30K,
    functools.partial(read, file=karpathy.FLICKR30K_FILE, name="flickr30k_order", published=5_000),
)
