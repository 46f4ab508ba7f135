"""COCO-Order and Flickr30k-Order of ARO: a caption against four shuffles of its words (Yuksekgonul et al., arXiv
2210.01936).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric, Outcomes
from naturel_jax.benchmarks.files import BenchmarkError, Folder, load_json, records
from tfds_naturel.order import Tagged, clean, shuffles, spacy_tags

# ARO's shuffles depend on a global generator; ours on (seed, image, caption), so they do not depend on what else is
# evaluated
SEED = 1


def read_coco(folder: Path) -> Benchmark:
    """From ``coco/coco_karpathy_test.json`` (25,010 captions of 5,000 images) and ``coco/val2014/``."""
    return _read(folder / "coco", "coco_karpathy_test.json", "coco_order", 25_010, spacy_tags)


def read_flickr30k(folder: Path) -> Benchmark:
    """From ``flickr30k/flickr30k_test.json`` (5,000 captions of 1,000 images) and ``flickr30k/flickr30k-images/``."""
    return _read(folder / "flickr30k", "flickr30k_test.json", "flickr30k_order", 5_000, spacy_tags)


def captioned_images(root: Path, file: str, problems: list[str]) -> Iterator[tuple[Image, list[str], str]]:
    """(image, captions, row number) of each valid record of a Karpathy split as ARO and BLIP distribute it."""
    images = Folder(root)
    rows = load_json(root / file, list)
    for key, row in records(
        file, ((str(n), row) for n, row in enumerate(rows)), {"image": str, "caption": list}, problems
    ):
        if not row["caption"] or not all(isinstance(caption, str) for caption in row["caption"]):
            problems.append(f"{file} record {key}: field 'caption' is {row['caption']!r:.80}, expected strings")
            continue
        try:
            yield images.image(row["image"]), row["caption"], key
        except BenchmarkError as error:
            problems.append(f"{file} record {key}: {error}")


def _read(root: Path, file: str, name: str, published: int, tags: Callable[[Sequence[str]], list[Tagged]]) -> Benchmark:
    problems, items = [], []
    found = list(captioned_images(root, file, problems))
    tagged = iter(tags([caption for _, captions, _ in found for caption in captions]))
    for image, captions, key in found:
        for n, caption in enumerate(captions):
            rng = np.random.default_rng((SEED, int(key), n))
            options = tuple(clean(option) for option in (caption, *shuffles(caption, next(tagged), rng)))
            items.append(Item(f"{key}/{n}", (image,), options))
    metrics = (Metric(f"{name}/precision@1", "right"), Metric(f"{name}/ties", "tie"), Metric(f"{name}/no_op", "no_op"))
    return Benchmark(
        name, tuple(items), _outcomes, metrics, published=published, problems=tuple(problems), true_captions=1
    )


def _outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """``no_op``: some shuffle left the caption as it was, so the item cannot be wrong on it."""
    no_op = [item.captions[0] in item.captions[1:] for item in items]
    return rules.first_of_many(items, cosines) | {"no_op": np.array(no_op, float)}
