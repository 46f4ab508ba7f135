"""Durations: strings with a unit, ``'500 steps'``, ``'5 epochs'``, ``'1e6 examples'`` or ``'5%'`` (of the run)."""

import math
import re
from fractions import Fraction

from naturel_jax.config.settings import Allowed

_DURATION = re.compile(r"\s*((?:\d+\.?\d*|\.\d+)(?:e\d+)?)\s*(step|epoch|example|%)s?\s*")


def is_duration(*, percent: bool = True) -> Allowed:
    """Durations as values of a config field; ``percent``: also percentages of the run."""
    units = "'500 steps', '5 epochs', '1e6 examples'" + (" or '5%'" if percent else "")

    def valid(text: str) -> bool:
        match = _DURATION.fullmatch(text)
        return match is not None and (percent or match.group(2) != "%")

    return Allowed(lambda: f"a number and a unit: {units}", valid)


def steps(text: str, *, batch_size: int, examples: int, total: int | None = None) -> int:
    """A duration in steps, rounded up. ``examples``: per epoch; ``total``: steps of the run, for percentages."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; configs are checked by naturel_jax.config.load")
    steps_per: dict[str, Fraction] = {  # exact: 700 / 100 is 7 steps, but 700 * 0.01 rounds up to 8
        "step": Fraction(1),
        "epoch": Fraction(examples, batch_size),
        "example": Fraction(1, batch_size),
        "%": Fraction(total or 0, 100),
    }
    return math.ceil(Fraction(match.group(1)) * steps_per[match.group(2)])
