"""CLIP-NatuRel and NegCLIP-AP at other rates, lengths and batch sizes and on fewer images, from a base and with seeds
that were not used before.

    naturel-sweep --config proofs/lab_settings.py --seeds 8,9,10 --out build/lab_settings
    python -m proofs.lab_settings build/lab_settings

The second command prints means, and CLIP-NatuRel minus NegCLIP-AP at each setting, with 95% intervals over seeds and
images; and CLIP-NatuRel as configured minus NegCLIP-AP at the rate or batch size that is best for it in that score,
with as many of the same images, which favours NegCLIP-AP; and what other settings change in each.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.configs import lab
from naturel_jax.report import seeds
from naturel_jax.report.seeds import Scored
from tfds_naturel.common import cli

ROWS = {"NegCLIP-AP": "negclip_ap", "CLIP-NatuRel": "clip_naturel"}
SETTINGS = {
    "as configured": {},
    "rate divided by 3": {"optim.lr": 3e-4},
    "rate times 3": {"optim.lr": 3e-3},
    "75 steps": {"duration": "75 steps"},
    "600 steps": {"duration": "600 steps"},
    "batches of 16, 1,200 steps": {"data.batch_size": 16, "duration": "1200 steps"},
    "batches of 256, 75 steps": {"data.batch_size": 256, "duration": "75 steps"},
    "1,500 images": {f"data.mixture.{part}.split": "train[:1500]" for part in ("main", "orders")},
    "500 images": {f"data.mixture.{part}.split": "train[:500]" for part in ("main", "orders")},
}
BETWEEN = ("batches of 16, 1,200 steps", "1,500 images", "500 images")
OTHER_IMAGES = ("75 steps", "600 steps", "1,500 images", "500 images")
SCORES = (
    "naturel/simple",
    "naturel/complex",
    "naturel_unseen/complex",
    "naturel_contrast/complex_group",
    "zeroshot/things/top1",
    "zeroshot/scenes/top1",
)


def get_config() -> ConfigDict:
    rows = {}
    for name, key in ROWS.items():
        for index, (setting, fields) in enumerate(SETTINGS.items()):
            row = lab.get_config("recipes").runs[key]
            row.name = f"{name}, {setting}"
            row.bases.clip_lab.seed = 2
            row.update_from_flattened_dict(fields)
            rows[f"{key}_{index}"] = row
    return c.suite(rows)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    sweep = parser.parse_args(arguments).sweep
    folders = {
        (row, setting): sorted(sweep.glob(f"{key}_{index}_seed=*"))
        for row, key in ROWS.items()
        for index, setting in enumerate(SETTINGS)
    }
    runs = {str(folder): seeds.of_run(folder) for of_setting in folders.values() for folder in of_setting}
    read = seeds.read(runs, lambda _: set(SCORES))
    scored = {
        metric: {setting: [of[str(folder)] for folder in of_setting] for setting, of_setting in folders.items()}
        for metric, of in read.scored.items()
    }
    print(f"| row | setting | {' | '.join(SCORES)} |\n| :--- | :--- |{' ---: |' * len(SCORES)}")
    for row, setting in folders:
        means = (seeds.mean(scored[metric][row, setting], *read.counts[metric]).value for metric in SCORES)
        print(f"| {row} | {setting} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    _print("CLIP-NatuRel minus NegCLIP-AP", _same_setting(scored))
    _print("CLIP-NatuRel as configured minus NegCLIP-AP at its best", _best(scored))
    _print("Between settings", _between(scored))


Of = dict[str, dict[tuple[str, str], list[Scored]]]  # metric -> (row, setting) -> the scores of its seeds


def _same_setting(scored: Of) -> list[seeds.Difference]:
    negclip, naturel = ROWS
    return [
        seeds.difference(
            setting, metric, scored[metric][naturel, setting], scored[metric][negclip, setting], paired=True
        )
        for metric in SCORES
        for setting in SETTINGS
    ]


def _best(scored: Of) -> list[seeds.Difference]:
    negclip, naturel = ROWS
    settings = [setting for setting in SETTINGS if setting not in OTHER_IMAGES]
    differences = []
    for metric in SCORES:
        of = scored[metric]
        best = max(settings, key=lambda setting: sum(run.value for run in of[negclip, setting]))
        own = of[naturel, "as configured"]
        differences.append(seeds.difference(f"than {best}", metric, own, of[negclip, best], paired=False))
    return differences


def _between(scored: Of) -> list[seeds.Difference]:
    first, (negclip, naturel) = "as configured", ROWS
    pairs = {"NegCLIP-AP, 600 steps, minus CLIP-NatuRel": ((negclip, "600 steps"), (naturel, first))}
    pairs |= {f"{row}, {setting}, minus {row}": ((row, setting), (row, first)) for row in ROWS for setting in BETWEEN}
    return [
        seeds.difference(title, metric, scored[metric][one], scored[metric][other], paired=False)
        for title, (one, other) in pairs.items()
        for metric in SCORES
    ]


def _print(title: str, differences: list[seeds.Difference]) -> None:
    print(f"\n{title}:\n\n| {' | '.join(seeds.HEAD)} |\n|{' --- |' * len(seeds.HEAD)}")
    for cells in seeds.cells(seeds.adjust(differences)):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    cli.run(main)
