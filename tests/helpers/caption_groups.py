"""A dataset small enough to check by hand: images that show one or two of four triplets, with eight captions each."""

import collections
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType
from PIL import Image
from scipy.stats import chisquare

from naturel_jax.data.batches.planner import BLANK, Plan
from naturel_jax.data.batches.recipes import Recipe
from naturel_jax.data.items.items import Caption, Group, Items, Source, collect
from naturel_jax.data.items.ragged import Ragged
from naturel_jax.data.random.draws import CAPTIONS, generator
from naturel_jax.data.text.processor import Processor, train_tokenizer
from naturel_jax.devices.sharding import AXES
from naturel_jax.models.presets import preset
from tests.helpers.image_files import encoded

# triplet -> its eight captions (text, asserts): positive and negative of the simple pair, then of the complex pairs.
TRIPLETS = {
    "Cat|on|Table": [
        *(("cat on table", "Cat|on|Table"), ("table on cat", "Table|on|Cat")),
        *(("The cat is on the table.", "Cat|on|Table"), ("The table is on the cat.", "Table|on|Cat")),
        *(("Upon the table there is a cat.", "Cat|on|Table"), ("The cat is under the table.", "Cat|under|Table")),
        *(("There is a cat that sits on a table.", "Cat|on|Table"), ("There is no cat on the table.", "")),
    ],
    "Cat|under|Table": [
        *(("cat under table", "Cat|under|Table"), ("table under cat", "Table|under|Cat")),
        *(("The cat is under the table.", "Cat|under|Table"), ("The cat is on the table.", "Cat|on|Table")),
        *(("Beneath a table lies a cat.", "Cat|under|Table"), ("Beneath a cat lies a table.", "Table|under|Cat")),
        *(("Under the table, the cat.", "Cat|under|Table"), ("Upon the table there is a cat.", "Cat|on|Table")),
    ],
    "Table|is|Wooden": [
        *(("wooden table", "Table|is|Wooden"), ("plastic table", "Table|is|Plastic")),
        *(("The table is wooden.", "Table|is|Wooden"), ("The table is plastic.", "Table|is|Plastic")),
        *(("A table made of wood.", "Table|is|Wooden"), ("A table made of plastic.", "Table|is|Plastic")),
        *(("Here is a wooden table.", "Table|is|Wooden"), ("Here is a table that is not wooden.", "")),
    ],
    "Dog|left_of|Cat": [
        *(("dog left of cat", "Dog|left_of|Cat"), ("cat left of dog", "Cat|left_of|Dog")),
        ("A dog stands beside the cat, on its left.", "Dog|left_of|Cat"),
        ("A dog stands beside the cat, on its right.", "Cat|left_of|Dog"),
        ("The dog is to the left of the cat.", "Dog|left_of|Cat"),
        ("The cat is to the left of the dog.", "Cat|left_of|Dog"),
        *(("Left of the cat is the dog.", "Dog|left_of|Cat"), ("Left of the dog is the cat.", "Cat|left_of|Dog")),
    ],
}
SHOWN = [["Cat|on|Table"], ["Cat|under|Table"], ["Cat|on|Table", "Table|is|Wooden"], ["Dog|left_of|Cat"]]
TEXTS = sorted({text for captions in TRIPLETS.values() for text, _ in captions})


def reworded(text: str, paraphrase: int) -> str:
    """Stands for another wording of a caption."""
    return f"{text} [{paraphrase}]" if paraphrase else text


def group(triplet: str, wordings: int = 1) -> Group:
    """The captions of ``triplet``, each in so many wordings (``reworded``)."""
    captions = [
        Caption(
            text,
            asserted,
            n // 2,
            "simple" if n < 2 else "complex",
            tuple(reworded(text, paraphrase) for paraphrase in range(1, wordings)),
        )
        for n, (text, asserted) in enumerate(TRIPLETS[triplet])
    ]
    return Group(captions[::2], captions[1::2], attribute="|is|" in triplet)


def items(images: int = 12, triplets=tuple(TRIPLETS), wordings: int = 1) -> Items:
    """Images that cycle through ``SHOWN``."""

    def groups(n):
        shown = [t for t in SHOWN[n % len(SHOWN)] if t in triplets] or [triplets[0]]
        return [group(triplet, wordings) for triplet in shown]

    return collect("tiny", ((f"image{n}", groups(n)) for n in range(images)))


def sampled_texts(which: Recipe, items: Items, images: Sequence[int]) -> list[tuple[list[str], list[str]]]:
    """The texts that a recipe samples for these images, with the draws of seed 0 and step 0."""
    both = which.sample(items, np.array(images), generator(0, CAPTIONS, 0))
    sides = []
    for texts, rewritten in both:
        words = np.array(rewritten if rewritten is not None else items.texts_at(texts.values), object)
        sides.append([Ragged(texts.starts, words)[n].tolist() for n in range(len(images))])
    return list(zip(*sides, strict=True))


def is_uniform(seen: Iterable[object], expected: Iterable[object]) -> bool:
    """Whether exactly these outcomes occur, with equal probabilities (chi-squared, p > 0.001)."""
    counts = collections.Counter(map(repr, seen))
    return counts.keys() == set(map(repr, expected)) and chisquare(list(counts.values())).pvalue > 0.001


def processor(family: str, texts=TEXTS) -> Processor:
    """A processor for the family's tiny preset, with a tokenizer trained on ``texts``."""
    pixels = {"resize": "square", "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    context = preset(f"tiny-{family}").text.context
    return Processor(tokenizer=train_tokenizer(family, texts, 400, context), context=context, size=48, **pixels)


def words(plan: Plan, clip: Processor) -> list[str]:
    """The caption of each row of a plan, decoded from its tokens."""
    text = {tuple(row[: plan.tokens.shape[1]]): text for row, text in zip(clip.tokenize(TEXTS), TEXTS, strict=True)}
    return [text[tuple(row)] for row in plan.tokens]


def items_of(plan: Plan) -> list[int]:
    """The items of all rows that are not blank, in ascending order."""
    return sorted(row.item for row in plan.rows if row != BLANK)


def jpeg(seed: int = 0, width: int = 90, height: int = 70) -> bytes:
    """A JPEG of smooth colours, which compression changes little."""
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8))
    return encoded(small.resize((width, height), Image.Resampling.BICUBIC), "JPEG", quality=95)


def source(images: int = 12) -> Source:
    """``items`` with a JPEG for each image."""
    files = [jpeg(n) for n in range(images)]
    return Source(items(images), files.__getitem__)


def mesh(devices: int) -> jax.sharding.Mesh:
    """The first ``devices`` devices along the data axis."""
    grid = np.array(jax.devices()[:devices]).reshape(devices, 1, 1)
    return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)
