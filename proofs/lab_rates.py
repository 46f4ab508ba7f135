"""The laboratory's methods at three learning rates each, on the world that had no part in CLIP-NatuRel's choice.

    naturel-sweep --config proofs/lab_rates.py --seeds 11, --out build/lab_rates
    python -m proofs.lab_rates build/lab_rates

The runs are scored on the validation split only. The second command prints the scores, and the best rate of each.
``lab_tuned.py`` trains the methods at these rates, with other seeds, and scores them on the test splits.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax.benchmarks import naturel_pairs
from naturel_jax.benchmarks.benchmark import Entry
from naturel_jax.benchmarks.registry import BENCHMARKS
from naturel_jax.configs import lab
from naturel_jax.report import seeds
from tfds_naturel.common import cli

WORLD = "naturel/scenes_agents"
VALIDATION = "naturel_validation"
METHODS = (
    *("negclip", "negclip_sp", "two_pairs", "negclip_ap", "ema", "own_foils", "lora"),
    *("fsc", "ce_clip", "read", "cs_clip", "clic", "clip_naturel"),
)
FACTORS = (1 / 3, 1.0, 3.0)  # of the rate in lab:methods, which is three times as high for LoRA


def rows() -> dict[str, ConfigDict]:
    """The methods of lab:methods on ``WORLD``, from a base that no other experiment starts from."""
    runs = lab.get_config("methods").runs
    rows = {key: runs[key] for key in ("clip", *METHODS)}
    for row in rows.values():
        row.bases.clip_lab.seed = 3
        for config in (row, row.bases.clip_lab):
            config.eval.naturel = WORLD
            for part in config.data.mixture.values():
                part.dataset = WORLD
    return rows


def rate(row: ConfigDict, factor: float) -> float:
    return float(f"{row.optim.lr * factor:.1g}")


def get_config() -> ConfigDict:
    read = functools.partial(naturel_pairs.read, split="validation", name=VALIDATION)
    BENCHMARKS[VALIDATION] = Entry(naturel_pairs.SOURCE, read)
    tried = {}
    for key, row in rows().items():
        if key in METHODS:
            for index, factor in enumerate(FACTORS):
                at = row.copy_and_resolve_references()
                at.optim.lr = rate(row, factor)
                at.name = f"{row.name}, {at.optim.lr:g}"
                at.eval.benchmarks = at.bases.clip_lab.eval.benchmarks = (VALIDATION,)
                tried[f"{key}_{index}"] = at
    return c.suite(tried)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    sweep = parser.parse_args(arguments).sweep
    metric = f"{VALIDATION}/complex"
    print(f"| method | {' | '.join(f'rate times {factor:.2g}' for factor in FACTORS)} | best rate |")
    print(f"| :--- |{' ---: |' * (len(FACTORS) + 1)}")
    for key, row in rows().items():
        if key in METHODS:
            runs = {index: next(sweep.glob(f"{key}_{index}_seed=*")) for index in range(len(FACTORS))}
            read = seeds.read({str(run): seeds.of_run(run) for run in runs.values()}, lambda _: {metric})
            scores = [read.scored[metric][str(run)].value for run in runs.values()]
            best = rate(row, FACTORS[scores.index(max(scores))])
            print(f"| {row.name} | {' | '.join(f'{score:.3f}' for score in scores)} | {best:g} |")


if __name__ == "__main__":
    cli.run(main)
