"""Evaluation in bfloat16 against float32: how far cosines, decisions and scores move.

    python -m proofs.precision --models SigLIP=run:runs/demo/siglip_scenes --naturel data/naturel/scenes/3.1.0
    python -m proofs.precision --random clip-b32 siglip-b16-224 --depth 4 --items 100

prints a row for each model and benchmark: the twins of the drawn world, and NatuRel's drawn one with ``--naturel``.

- *cosine*: the largest difference of a cosine.
- *margin*: the largest difference of a margin, between two captions of an image or two images of a caption. A decision
  whose margin is larger in float32 than this cannot change.
- *orders*: the share of these pairs whose order changes; a tie is an order of its own. *decisions*: the share of items
  with an outcome that changes.
- *ties*: pairs with equal cosines, in float32 and in bfloat16, but for captions with equal tokens.
- *score*: the score of the benchmark that moves most, by how much, and half the width of its 95% interval.

Towers with random weights (``--random``, the sizes of a preset but for its ``--depth``) rank nearly at random, with
margins far smaller than those of trained ones: the share of changed decisions is an upper bound in practice.
"""

import argparse
import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from naturel_jax import weights
from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import Benchmark, Item, headlines
from naturel_jax.data.text.processor import from_scratch
from naturel_jax.evaluate import parse_models
from naturel_jax.evaluators import confidence
from naturel_jax.evaluators.embed import cosines, make_encoder
from naturel_jax.models import presets
from naturel_jax.models.families import family_of
from naturel_jax.models.two_tower import Model
from naturel_jax.weights import processor_files
from naturel_jax.weights.sources import Loaded
from tfds_naturel.common import cli
from tfds_naturel.scenes import twins
from tfds_naturel.scenes.scene import CONFIGS

TWINS = ("winoground", "vg_relation", "vg_attribution", "sugarcrepe")
HEADINGS = ("model", "benchmark", "items", "cosine", "margin", "orders", "decisions", "ties", "score", "moves by", "±")


class Drift(NamedTuple):
    """What changes between two evaluations of the same items; see the module."""

    items: int
    cosine: float
    margin: float
    orders: float
    decisions: float
    ties: tuple[int, int]
    score: str
    moves: float
    half_width: float

    @property
    def cells(self) -> list[str]:
        """The cells of its row in the table."""
        return [
            f"{self.items:,}",
            f"{self.cosine:.1e}",
            f"{self.margin:.1e}",
            f"{self.orders:.2%}",
            f"{self.decisions:.2%}",
            f"{self.ties[0]}, {self.ties[1]}",
            self.score,
            f"{self.moves:.4f}",
            f"{self.half_width:.4f}",
        ]


def margins(items: Sequence[Item], matrices: Sequence[np.ndarray]) -> np.ndarray:
    """s(i, c) - s(i, d) of every image i and captions c, d of an item, and s(i, c) - s(j, c) likewise, [N]; not of
    captions that are equal but for case and spaces, which tie by design."""
    found = []
    for item, matrix in zip(items, matrices, strict=True):
        texts = [" ".join(str(caption).lower().split()) for caption in item.captions]
        images = matrix[: len(item.images)]
        pairs = itertools.combinations(range(len(texts)), 2)
        found += [images[:, a] - images[:, b] for a, b in pairs if texts[a] != texts[b]]
        found += [images[a] - images[b] for a, b in itertools.combinations(range(len(images)), 2)]
    return np.concatenate(found)


def drift(
    benchmark: Benchmark, items: Sequence[Item], exact: Sequence[np.ndarray], rounded: Sequence[np.ndarray]
) -> Drift:
    """Compares the cosines ``rounded`` with ``exact`` ones of the same items, and what the benchmark makes of both."""
    before, after = margins(items, exact), margins(items, rounded)
    outcomes, changed = benchmark.outcomes(items, exact), benchmark.outcomes(items, rounded)
    decided = [~np.isclose(outcomes[name], changed[name], equal_nan=True) for name in outcomes if name != "tie"]
    scores, moved = benchmark.score(items, exact), benchmark.score(items, rounded)
    bounds = confidence.intervals(benchmark, items, outcomes)
    named = headlines(scores)
    worst = max(named, key=lambda name: abs(scores[name].value - moved[name].value))
    low, high = bounds[worst]
    return Drift(
        len(items),
        max(float(np.abs(a - b).max()) for a, b in zip(exact, rounded, strict=True)),
        float(np.abs(before - after).max()),
        float(np.mean(np.sign(before) != np.sign(after))),
        float(np.mean(np.any(decided, axis=0))),
        (int((before == 0).sum()), int((after == 0).sum())),
        worst,
        abs(scores[worst].value - moved[worst].value),
        (high - low) / 2,
    )


def random_model(name: str, depth: int, captions: Sequence[str]) -> Loaded:
    """The preset ``name`` with random parameters and ``depth`` blocks in each tower (0: its own)."""
    config = presets.preset(name)
    for side in ("image", "text") if depth else ():
        tower = getattr(config, side)
        shallow = dataclasses.replace(tower, transformer=dataclasses.replace(tower.transformer, depth=depth))
        config = dataclasses.replace(config, **{side: shallow})
    processor = from_scratch(config, captions)
    if config.text.pool == "eos":  # that of the small vocabulary
        end = processor_files.special_ids(processor, family_of(config))["eos_token_id"]
        config = dataclasses.replace(config, text=dataclasses.replace(config.text, eos_id=end))
    return Loaded(config, jax.jit(Model(config).init)(jax.random.key(0)), processor)


def models(options: argparse.Namespace, captions: Sequence[str]) -> Iterator[tuple[str, Loaded]]:
    """Name and model, one in memory at a time."""
    for name, source in parse_models(options.models).items():
        yield name, weights.load(source)
    for name in options.random:
        depth = f", depth {options.depth}" if options.depth else ""
        yield f"{name} (random{depth})", random_model(name, options.depth, captions)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=[], metavar="NAME=SOURCE")
    parser.add_argument("--random", nargs="*", default=[], metavar="PRESET", help="towers with random weights")
    parser.add_argument("--depth", type=int, default=0, help="of these towers; 0: the preset's")
    parser.add_argument("--items", type=int, default=400, help="of each file of the twins, and of NatuRel's")
    parser.add_argument("--naturel", type=Path, help="a prepared TFDS folder of the drawn world")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        twins.write(Path(folder), CONFIGS["scenes"], seed=0, items=options.items)
        names = (*TWINS, *(("naturel", "naturel_unseen", "naturel_contrast") if options.naturel else ()))
        benchmarks = registry.read(names, files=Path(folder), naturel=options.naturel)
        captions = [str(text) for benchmark in benchmarks for item in benchmark.items for text in item.captions]
        print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
        for name, loaded in models(options, captions):
            embedders = [
                make_encoder(loaded, dtype=dtype, batch_size=64).with_params(loaded.params)
                for dtype in ("float32", "bfloat16")
            ]
            for benchmark in benchmarks:
                items = benchmark.items if benchmark.name in TWINS else benchmark.items[: options.items]
                (kept, exact, _), (_, rounded, _) = (cosines(items, embedder) for embedder in embedders)
                cells = drift(benchmark, kept, exact, rounded).cells
                print(f"| {' | '.join([name, benchmark.name, *cells])} |", flush=True)


if __name__ == "__main__":
    cli.run(main)
