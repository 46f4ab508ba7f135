"""The laboratory's methods at learning rates of their own, on the world that had no part in CLIP-NatuRel's choice.

    naturel-data-build scenes_agents --data_dir data
    naturel-mine --dataset data/naturel/scenes_agents/3.1.0 --out build/lab_mined.parquet
    naturel-sweep --config proofs/lab_rates.py --seeds 11, --out build/lab_rates
    python -m proofs.lab_rates build/lab_rates
    naturel-sweep --config proofs/lab_rates.py:tuned --seeds 12,13,14 --baseline NegCLIP-AP --out build/lab_tuned

The first sweep trains each at three rates, and scores them on the validation split; ``lab_rates`` prints these scores.
The second trains each at the best of its rates, with other seeds, and scores them as ``lab:methods`` does.
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
MINED = "build/lab_mined.parquet"
# Rows of lab:methods and of ``_further``, and the best rate of each on the validation split (proofs/lab_rates.md).
METHODS = {
    "negclip": 1e-3,
    "negclip_sp": 1e-3,
    "two_pairs": 3e-3,
    "negclip_ap": 3e-3,
    "ema": 3e-3,
    "own_foils": 3e-3,
    "lora": 9e-3,
    "fsc": 3e-3,
    "ce_clip": 1e-3,
    "read": 3e-3,
    "cs_clip": 3e-3,
    "clic": 1e-3,
    "clip_naturel": 1e-3,
    "match_ignore": 3e-3,
    "preserved": 3e-3,
    "hard_images": 3e-3,
    "triplet_clip": 1e-3,
    "bindings": 1e-3,
}
RATES = {"divided by 3": 1 / 3, "of lab:methods": 1.0, "times 3": 3.0}


def get_config(suite: str = "tried") -> ConfigDict:
    return c.suite({"tried": _tried, "tuned": _tuned}[suite]())


def _tried() -> dict[str, ConfigDict]:
    read = functools.partial(naturel_pairs.read, split="validation", name=VALIDATION)
    BENCHMARKS[VALIDATION] = Entry(naturel_pairs.SOURCE, read)
    rows = {}
    for index, factor in enumerate(RATES.values()):
        for key, row in _rows(*METHODS).items():
            row.optim.lr = float(f"{row.optim.lr * factor:.1g}")
            row.name = f"{row.name}, {row.optim.lr:g}"
            row.eval.benchmarks = row.bases.clip_lab.eval.benchmarks = (VALIDATION,)
            rows[f"{key}_{index}"] = row
    return rows


def _tuned() -> dict[str, ConfigDict]:
    rows = _rows("clip", *METHODS)
    for key, rate in METHODS.items():
        rows[key].optim.lr = rate
    return rows


def _rows(*keys: str) -> dict[str, ConfigDict]:
    """Rows of lab:methods on ``WORLD``, from a base that was not used before."""
    runs = lab.get_config("methods").runs
    runs.update(_further(runs))
    for key in keys:
        base = runs[key].bases.clip_lab
        base.seed = 3
        for config in (runs[key], base):
            config.eval.naturel = WORLD
            for part in config.data.mixture.values():
                part.dataset = WORLD
    return {key: runs[key] for key in keys}


def _further(runs: ConfigDict) -> dict[str, ConfigDict]:
    """NegCLIP-SP with mined hard images, TripletCLIP on the same captions and images, and NegCLIP-AP that also trains
    on bindings."""
    hard, triplet, bindings = (
        runs[key].copy_and_resolve_references() for key in ("negclip_sp", "negclip_sp", "negclip_ap")
    )
    hard.name, triplet.name = "NegCLIP-SP, hard images", "TripletCLIP"
    hard.data.mixture.main.hard_images = triplet.data.mixture.main.hard_images = MINED
    triplet.data.mixture.main.hard_captions = "exchanged"
    triplet.objective.terms = {"exchanged_images": {"weight": 1.0}}
    bindings.name = "NegCLIP-AP, bindings"
    bindings.data.mixture.main.weight = 0.5
    bindings.data.mixture.bindings = c.part(WORLD, "bindings", weight=0.25)
    bindings.eval.benchmarks = (*bindings.eval.benchmarks, "naturel_bindings")
    return {"hard_images": hard, "triplet_clip": triplet, "bindings": bindings}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    sweep = parser.parse_args(arguments).sweep
    metric, rows = f"{VALIDATION}/complex", _tried()
    folders = {key: str(next(sweep.glob(f"{key}_seed=*"))) for key in rows}
    scored = seeds.read({folder: seeds.of_run(Path(folder)) for folder in folders.values()}, lambda _: {metric})
    print(f"| method | {' | '.join(f'rate {name}' for name in RATES)} | best |\n| :--- |{' ---: |' * (len(RATES) + 1)}")
    for method, row in _rows(*METHODS).items():
        keys = [f"{method}_{index}" for index in range(len(RATES))]
        of = {key: scored.scored[metric][folders[key]].value for key in keys}
        best = rows[max(of, key=of.__getitem__)].optim.lr
        print(f"| {row.name} | {' | '.join(f'{score:.3f}' for score in of.values())} | {best:g} |")


if __name__ == "__main__":
    cli.run(main)
