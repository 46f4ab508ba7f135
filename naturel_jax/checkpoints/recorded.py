"""What a run recorded while it trained: lines of its ``metrics.jsonl``."""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from naturel_jax import storage
from tfds_naturel.common.errors import UserError

FILE = "metrics.jsonl"
INTERPOLATED = "interpolated.json"  # scores between the run's first and last parameters
LOSS = "train/loss"
TIME = "wall_time"  # of each line, in seconds since 1970


class Recorded(NamedTuple):
    """``history``: (step, scores) of the evaluations during a run; ``losses``: (steps done, training loss) of the steps
    that were logged, those that are finite; ``ended``: when the run recorded something last, in seconds since 1970;
    None if that is not known."""

    history: list[tuple[int, dict[str, float]]]
    losses: list[tuple[int, float]]
    ended: float | None


def read(workdir: epath.Path) -> Recorded:
    """What the run in ``workdir`` recorded. Raises what ``storage.read_json_lines`` raises, and UserError for a score
    that is not a number."""
    lines = storage.read_json_lines(workdir / FILE)
    history = [
        (line["step"], {name: value for name, value in line.items() if name not in ("step", TIME)})
        for line in lines
        if not any(name.startswith("train/") for name in line)
    ]
    for step, scores in history:
        for name, value in scores.items():
            if not isinstance(value, float) and not _is_number(value):  # a float may be infinite or NaN
                raise UserError(
                    f"{workdir / FILE}: {name:.80} of step {step} is {value!r:.80}, expected a number; remove the line"
                )
    losses = [(line["step"], line[LOSS]) for line in lines if _is_number(line.get(LOSS))]
    times = [line[TIME] for line in lines if _is_number(line.get(TIME))]
    return Recorded(history, losses, times[-1] if times else None)


def by_step(workdir: epath.Path) -> Mapping[int, Mapping[str, float]]:
    """Step -> the scores recorded there that are numbers."""
    found: dict[int, dict[str, float]] = {}
    for step, scores in read(workdir).history:
        found.setdefault(step, {}).update({name: value for name, value in scores.items() if _is_number(value)})
    return found


def extended(config: Mapping[str, Any]) -> list[tuple[int, str]]:
    """(step, duration) for each time that a run became longer, after the learning rates of that duration, by its
    ``config.json``; not where those of the longer run are the same."""
    rows = config.get("extended", ())
    return [(int(row["step"]), str(row["duration"])) for row in rows if not row["same_rates"]]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max
