"""What the laboratory's recipes keep of zero-shot classification, against what they gain, at shares of the way from
their base (WiSE-FT, arXiv 2109.01903).

    python -m proofs.lab_kept build/lab_recipes --images 4000

After ``lab_recipes``. Draws zero-shot images beside those of the laboratory, ten times as many, evaluates every seed of
every row at every share, and prints means, and differences from the base and from NegCLIP-AP, with 95% intervals over
seeds and images.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from naturel_jax.benchmarks import registry
from naturel_jax.cli import evaluation
from naturel_jax.evaluators.mirror import Mirror
from naturel_jax.report import seeds
from naturel_jax.report.seeds import Evaluated, Scored
from tfds_naturel.common import cli
from tfds_naturel.scenes import twins
from tfds_naturel.scenes.scene import CONFIGS, VERSION

WORLD = "scenes_agents"
ROWS = {"NegCLIP-AP": "negclip_ap", "CLIP-NatuRel": "clip_naturel"}
BASE = "CLIP"
SHARES = (0.25, 0.5, 0.75, 1)
KEPT = ("zeroshot/things/top1", "zeroshot/scenes/top1")
GAINED = ("naturel/complex", "naturel_unseen/complex", "naturel_contrast/complex_group")
SEED = 1  # other images than the laboratory's, which have seed 0


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--images", type=int, default=4000, help="of things, and of scenes (default: %(default)s)")
    options = parser.parse_args(arguments)
    out, drawn = options.sweep.parent / "lab_kept", options.sweep.parent / f"lab_kept_{options.images}"
    if not (drawn / "FURTHER.md").exists():
        twins.write_further(drawn, CONFIGS[WORLD], SEED, options.images)

    settings = _evaluate(options.sweep, drawn, out)
    runs = {name: Evaluated(out, name) for models in settings.values() for name in models}
    read = seeds.read(runs, lambda _: {*KEPT, *GAINED})
    scored = {
        metric: {setting: [of[name] for name in models] for setting, models in settings.items()}
        for metric, of in read.scored.items()
    }
    print(f"\n| | {' | '.join(KEPT + GAINED)} |\n| :--- |{' ---: |' * len(KEPT + GAINED)}")
    for setting in settings:
        means = (seeds.mean(scored[metric][setting], *read.counts[metric]).value for metric in KEPT + GAINED)
        print(f"| {setting} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    for metrics, baseline in ((KEPT, BASE), (GAINED, "NegCLIP-AP, 1")):
        print(f"\nDifferences from {baseline}:\n\n| {' | '.join(seeds.HEAD)} |\n|{' --- |' * len(seeds.HEAD)}")
        for cells in seeds.cells(_differences({metric: scored[metric] for metric in metrics}, baseline)):
            print(f"| {' | '.join(cells)} |")


def _evaluate(sweep: Path, drawn: Path, out: Path) -> dict[str, list[str]]:
    """Evaluates every seed of every row at every share, and the base; returns setting -> the names of its models."""
    sources = {BASE: f"run:{sweep / 'clip_lab'}"}
    settings = {BASE: [BASE]}
    for row, key in ROWS.items():
        for share in SHARES:
            for folder in sorted(sweep.glob(f"{key}_seed=*")):
                model = f"{row} {share} {folder.name.partition('=')[2]}"
                sources[model] = f"run:{folder}" + (f"@interpolated:{share}" if share < 1 else "")
                settings.setdefault(f"{row}, {share}", []).append(model)
    names = tuple(dict.fromkeys(metric.partition("/")[0] for metric in KEPT + GAINED))
    benchmarks = registry.read(names, files=drawn, naturel=Path("data/naturel") / WORLD / VERSION)
    for name, source in sources.items():
        evaluation.evaluate(name, source, benchmarks, Mirror(epath.Path(out)), batch_size=256, dtype="float32")
    return settings


def _differences(scored: dict[str, dict[str, list[Scored]]], baseline: str) -> list[seeds.Difference]:
    return seeds.adjust(
        [
            seeds.difference(setting, metric, runs, of[baseline], paired=len(runs) == len(of[baseline]))
            for metric, of in scored.items()
            for setting, runs in of.items()
            if setting != baseline
        ]
    )


if __name__ == "__main__":
    cli.run(main)
