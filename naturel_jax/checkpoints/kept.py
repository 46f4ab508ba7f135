"""Which checkpoints of a run are kept."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Kept:
    """The ``newest`` so many, and for each interval of ``every``, in steps, those at its multiples until the run has
    saved one that is later by more than the interval: so long may a process take that works from them
    (``data/batches/remined.py``). It is a ``PreservationPolicy`` of Orbax."""

    newest: int
    every: Collection[int] = ()

    def steps(self, steps: Sequence[int]) -> list[int]:
        """The steps that are kept, of all ``steps`` in ascending order."""
        return [
            step
            for step in steps
            if step in steps[-self.newest :] or any(step % n == 0 and step + n >= steps[-1] for n in self.every)
        ]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether each is kept, as Orbax asks."""
        kept = self.steps([each.step for each in checkpoints])
        return [each.step in kept for each in checkpoints]
