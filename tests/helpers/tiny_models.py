"""Small models with random weights, and items over a few images, for the tests of embedding and scoring."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from naturel_jax.benchmarks.benchmark import Image, Item
from naturel_jax.checkpoints import checkpoint_meta
from naturel_jax.data.text.processor import Processor, train_tokenizer
from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model
from tests.helpers import benchmark_files
from tests.helpers.worlds import write_checkpoints

CAPTIONS = ["a cat on a box", "a box on a cat", "the dog is under the tree near the old red house", "hats"]


@functools.cache
def tiny(family: str = "clip") -> tuple[Model, dict, Processor]:
    """A small model with random weights and a processor trained on a few captions."""
    config = preset(f"tiny-{family}")
    tokenizer = train_tokenizer(family, CAPTIONS * 3, 300, config.text.context)
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
    processor = Processor(tokenizer, config.text.context, config.image.size, "short", "bicubic", **statistics)
    model = Model(config)
    return model, model.init(jax.random.key(0)), processor


def write_run(workdir: Path, params_at: Mapping[int, Any], recipe: dict[str, Any], **more: Any) -> None:
    """The checkpoints of a run of the small CLIP: step -> parameters. ``more``: further metadata."""
    model, _, processor = tiny()
    write_checkpoints(workdir, params_at, checkpoint_meta.make_meta(recipe, model.config, processor, **more))


def items(number: int) -> list[Item]:
    """Items that share images, crops and captions."""
    boxes = (None, (4, 2, 44, 32))
    images = [Image(f"image {n % 5}", lambda n=n: benchmark_files.png(n % 5), boxes[n // 5 % 2]) for n in range(number)]
    return [Item(str(n), (image,), (CAPTIONS[n % 4], CAPTIONS[(n + 1) % 4])) for n, image in enumerate(images)]
