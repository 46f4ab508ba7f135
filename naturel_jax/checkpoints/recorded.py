"""The scores that a run recorded while it trained: lines of its ``metrics.jsonl``."""

import math
from collections.abc import Mapping

from etils import epath

from naturel_jax import storage

FILE = "metrics.jsonl"
INTERPOLATED = "interpolated.json"  # scores between the run's first and last parameters
LOSS = "train/loss"
TIME = "wall_time"  # of each line, in seconds since 1970


def history(workdir: epath.Path) -> list[tuple[int, dict[str, float]]]:
    """(step, scores) of the evaluations during a run."""
    lines = storage.read_json_lines(workdir / FILE)
    evaluations = [line for line in lines if not any(name.startswith("train/") for name in line)]
    return [
        (line["step"], {name: value for name, value in line.items() if name not in ("step", TIME)})
        for line in evaluations
    ]


def losses(workdir: epath.Path) -> list[tuple[int, float]]:
    """(steps done, training loss) of the steps that were logged, those that are finite."""
    lines = storage.read_json_lines(workdir / FILE)
    return [(line["step"], line[LOSS]) for line in lines if _is_number(line.get(LOSS))]


def by_step(workdir: epath.Path) -> Mapping[int, Mapping[str, float]]:
    """Step -> the scores recorded there that are numbers."""
    found: dict[int, dict[str, float]] = {}
    for step, scores in history(workdir):
        found.setdefault(step, {}).update({name: value for name, value in scores.items() if _is_number(value)})
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and -math.inf < value < math.inf
