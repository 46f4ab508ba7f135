"""What a run says while it runs: a progress bar, JSON lines, TensorBoard, Weights & Biases."""

import contextlib
import json
import os
import time
from typing import Any

import jax
import tqdm


class Metrics:
    """Writes numbers of a run; only the first process writes.

    ``<workdir>/metrics.jsonl`` has a line for each logged step and evaluation. Lines of steps from ``start`` on are
    dropped at the beginning: they are of a run that ended after its last checkpoint, and are about to be written
    again.
    """

    def __init__(
        self,
        workdir: str,
        *,
        start: int,
        total: int,
        log_every: int,
        images: int,
        name: str,
        tensorboard: bool = True,
        wandb: str = "",
    ):
        self._chief = jax.process_index() == 0
        self._log_every, self._total, self._images = log_every, total, images
        self._clock, self._clock_step = time.monotonic(), start
        self._bar = tqdm.tqdm(
            total=total,
            initial=start,
            desc=name,
            unit="step",
            disable=not self._chief,
            dynamic_ncols=True,
            mininterval=1,
        )
        self._lines = self._board = self._wandb = None
        if not self._chief:
            return
        path = os.path.join(workdir, "metrics.jsonl")
        drop_lines(path, start)
        self._lines = open(path, "a")  # noqa: SIM115 (open as long as the run)
        if tensorboard:
            import tensorboardX  # optional by config, and slow to import

            self._board = tensorboardX.SummaryWriter(os.path.join(workdir, "tensorboard"), purge_step=start)
        if wandb:
            import wandb as wandb_library  # only users who ask for it have it

            self._wandb = wandb_library.init(
                project=wandb, name=name, dir=workdir, id=os.path.basename(workdir), resume="allow"
            )

    def train(self, step: int, values: dict[str, float]) -> None:
        """Counts a finished step; every ``log_every`` steps its values are written, with images a second since the
        last time."""
        self._bar.update(step - self._bar.n)
        if step % self._log_every and step != self._total:
            return
        now = time.monotonic()
        rate = (step - self._clock_step) * self._images / max(now - self._clock, 1e-9)
        self._clock, self._clock_step = now, step
        self._bar.set_postfix_str(f"loss {values['loss']:.4f}, {rate:,.0f} images/s")
        self.write(step, {f"train/{name}": value for name, value in values.items()} | {"train/images_per_s": rate})

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes ``values`` of ``step`` everywhere."""
        if not self._chief:
            return
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(values, step=step)

    @contextlib.contextmanager
    def paused(self):
        """What happens within (an evaluation) does not count as training time."""
        began = time.monotonic()
        yield
        self._clock += time.monotonic() - began

    def close(self) -> None:
        """Closes files and bar."""
        self._bar.close()
        for writer in filter(None, (self._lines, self._board)):
            writer.close()
        if self._wandb:
            self._wandb.finish()


def read_lines(path: str) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a torn last line is left out."""
    if not os.path.exists(path):
        return []
    rows = []
    with open(path) as file:
        for line in file:
            if line.endswith("\n"):
                rows.append(json.loads(line))
    return rows


def drop_lines(path: str, start: int) -> None:
    """Removes the lines of steps after ``start`` from a ``metrics.jsonl``, in one rename."""
    rows = read_lines(path)
    if all(row["step"] <= start for row in rows) and not os.path.exists(path):
        return
    with open(path + ".new", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows if row["step"] <= start)
    os.replace(path + ".new", path)
