"""Durations: strings with a unit, ``'500 steps'``, ``'5 epochs'``, ``'1e6 examples'`` or ``'5%'`` (of the run)."""

import math
import re
from fractions import Fraction

from naturel_jax.config.settings import Allowed
from tfds_naturel.common.errors import UserError

_DURATION = re.compile(r"\s*((?:\d+\.?\d*|\.\d+)(?:e\d{1,3})?)\s*(step|epoch|example|%)s?\s*")
_LARGEST = {"step": 1e9, "epoch": 1e6, "example": 1e15, "%": 100}
MOST_STEPS = 1 << 31  # optimizers count them in int32


def is_duration(*, percent: bool = True) -> Allowed:
    """Durations as values of a config field; ``percent``: also percentages of the run."""
    units = "'500 steps', '5 epochs', '1e6 examples'" + (" or '5%'" if percent else "")

    def valid(text: str) -> bool:
        match = _DURATION.fullmatch(text)
        return match is not None and (percent or match[2] != "%") and float(match[1]) <= _LARGEST[match[2]]

    most = "at most 1e9 steps, 1e6 epochs or 1e15 examples"
    return Allowed(lambda: f"a number and a unit: {units}; {most}", valid)


def steps(text: str, *, batch_size: int, examples: int, total: int | None = None) -> int:
    """A duration in steps, rounded up. ``examples``: per epoch; ``total``: steps of the run, for percentages. Raises
    UserError for more steps than an optimizer can count."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; configs are checked by naturel_jax.config.load")
    steps_per: dict[str, Fraction] = {  # exact: 700 / 100 is 7 steps, but 700 * 0.01 rounds up to 8
        "step": Fraction(1),
        "epoch": Fraction(examples, batch_size),
        "example": Fraction(1, batch_size),
        "%": Fraction(total or 0, 100),
    }
    count = math.ceil(Fraction(match[1]) * steps_per[match[2]])
    if count >= MOST_STEPS:
        raise UserError(f"config: {text!r} is {count:,} steps with this data; expected less than {MOST_STEPS:,}")
    return count


def steps_without_data(text: str, batch_size: int) -> int | None:
    """A duration in steps, if that does not depend on the data or on another duration."""
    match = _DURATION.fullmatch(text)
    if match is None or match[2] in ("epoch", "%"):
        return None
    return steps(text, batch_size=batch_size, examples=0)
