"""The laboratory's recipes in columns that no run of it was scored on: bindings, retrieval, rewording, half-truths,
negation, and the other twins of the demo.

    python -m proofs.lab_columns build/lab_parts

After ``lab_parts``. Draws the twins for experiments with other images than the laboratory's, evaluates the base and
every seed of the rows, and prints means, what n-grams score without the images, differences from the first row, and
those of the first row from the base, with 95% intervals over seeds and images.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import Benchmark, headlines
from naturel_jax.cli import evaluation
from naturel_jax.evaluators import results
from naturel_jax.evaluators.mirror import Mirror
from naturel_jax.report import seeds
from naturel_jax.report.seeds import Evaluated
from tfds_naturel.common import cli
from tfds_naturel.scenes import twins
from tfds_naturel.scenes.scene import CONFIGS, VERSION

WORLD = "scenes_agents"
BASE = "CLIP"
FIRST = "CLIP-NatuRel"
ROWS = {FIRST: "without_0", "NegCLIP-AP": "negclip_ap", "NegCLIP-AP and own foils": "without_5"}  # of lab_parts.py
SEED = 1  # of the images of the twins for experiments; the laboratory's have seed 0
ITEMS = 1000
DEMO = ("vg_relation", "vg_attribution", "sugarcrepe")  # twins that were drawn with the world
FURTHER = ("sugarcrepe_pp", "hard_positives_swap", "bla", "negbench_synthetic", "coco_retrieval", "flickr30k_retrieval")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    options = parser.parse_args(arguments)
    benchmarks = _benchmarks(options.sweep.parent)
    out = options.sweep.parent / f"lab_columns_{options.sweep.name}"
    settings = {BASE: {BASE: options.sweep / "clip_lab"}}
    for name, key in ROWS.items():
        finished = sorted(options.sweep.glob(f"{key}_seed=*/scores.json"))
        settings[name] = {f"{name} {path.parent.name}": path.parent for path in finished}
    for models in settings.values():
        for model, folder in models.items():
            evaluation.evaluate(
                model, f"run:{folder}", benchmarks, Mirror(epath.Path(out)), batch_size=256, dtype="float32"
            )
    _print(settings, out)


def _benchmarks(folder: Path) -> list[Benchmark]:
    drawn = folder / f"lab_columns_{WORLD}"
    if not (drawn / "FURTHER.md").exists():
        twins.write_further(drawn, CONFIGS[WORLD], SEED, ITEMS)
    naturel = Path("data/naturel") / WORLD / VERSION
    found = registry.read(DEMO, files=Path("data/twins") / WORLD / VERSION)
    return [*found, *registry.read(("naturel_bindings", *FURTHER), files=drawn, naturel=naturel)]


def _print(settings: dict[str, dict[str, Path]], out: Path) -> None:
    """Two tables: means, and differences from the first row and from the base."""
    runs = {model: Evaluated(out, model) for models in settings.values() for model in models}
    read = seeds.read(runs, lambda metrics: set(headlines([metric.name for metric in metrics])))
    scored = {
        metric: {name: [of[model] for model in models] for name, models in settings.items()}
        for metric, of in read.scored.items()
    }
    blind = {}
    for result in results.load(epath.Path(out)):
        blind |= result.blind.get("n-grams", {})
    print(f"\n| score | items | chance | n-grams | {' | '.join(settings)} |\n| :--- |{' ---: |' * (len(settings) + 3)}")
    for metric, of in scored.items():
        count, incomplete = read.counts[metric]
        means = [f"{seeds.mean(of_row, count, incomplete).value:.3f}" for of_row in of.values()]
        alone = f"{blind[metric]:.3f}" if metric in blind else "-"
        print(f"| {metric} | {count:,} | {read.chance[metric]:.2f} | {alone} | {' | '.join(means)} |")
    for baseline, names in ((FIRST, [name for name in ROWS if name != FIRST]), (BASE, [FIRST])):
        differences = [
            seeds.difference(name, metric, of[name], of[baseline], paired=baseline != BASE)
            for name in names
            for metric, of in scored.items()
        ]
        print(f"\nDifferences from {baseline}:\n\n| {' | '.join(seeds.HEAD)} |\n|{' --- |' * len(seeds.HEAD)}")
        for cells in seeds.cells(seeds.adjust(differences)):
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    cli.run(main)
