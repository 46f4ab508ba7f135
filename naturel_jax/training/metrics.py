"""What a run reports as it goes: a progress bar or log lines, JSON lines, TensorBoard, Weights & Biases."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import tqdm
import tqdm.contrib.logging
from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import headlines
from naturel_jax.checkpoints import recorded
from naturel_jax.config import Config
from naturel_jax.evaluators.confidence import Intervals
from naturel_jax.evaluators.examples import Example
from naturel_jax.training import mistakes as mistakes_lib
from naturel_jax.training import observe, writers
from naturel_jax.training.writers import Values

_LOG = logging.getLogger(__name__)

_LOGGED = 6  # scores in a line of the log
_STEP_FORMATS = {  # fields of a step in a line of the log
    "loss": "loss {:.4f}",
    "grad_norm": "gradient norm {:.3g}",
    "lr": "lr {:.2g}",
    "images_per_s": "{:,.0f} images/s",
    "mfu": "MFU {:.2f}",
}


class Metrics:
    """Writes a run's numbers; only the first process writes.

    ``<workdir>/metrics.jsonl`` has a line for each logged step and each evaluation, with the time. Lines for steps
    after ``start`` are dropped first: the run was interrupted after its last checkpoint, and is about to write them
    again.
    """

    def __init__(self, config: Config, workdir: epath.Path, *, start: int, total: int, log_every: int):
        self._log_every, self._total, self._images = log_every, total, config.data.batch_size
        self._clock, self._clock_step, self._flops = time.monotonic(), start, 0.0
        self._dtype = config.compute.dtype_on(jax.default_backend())
        self._name, first = config.name, jax.process_index() == 0
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total,
            initial=start,
            desc=config.name,
            unit="step",
            disable=not (first and self._terminal),
            dynamic_ncols=True,
            mininterval=1,
        )
        lines = workdir / recorded.FILE
        at_start = [row for row in storage.read_json_lines(lines) if row["step"] == start]
        # What was written at this step before the run was interrupted, or had finished; the last of several values.
        self._start, self._written = start, {name: value for row in at_start for name, value in row.items()}
        self.evaluated = {name.split("/")[0] for name in self._written if "/" in name} - {"train"}
        self._close = contextlib.ExitStack()
        self._close.callback(self._bar.close)
        if self._terminal:  # log lines go above the bar, not into it
            loggers = [logging.getLogger(name) for name in ("naturel_jax", "tfds_naturel")]
            self._close.enter_context(tqdm.contrib.logging.logging_redirect_tqdm(loggers))
        self._writers: list[writers.Writer] = []
        if not first:
            return
        self._writers = writers.open_all(config, workdir, start, self._close)

    def train(self, step: int, values: Values) -> None:
        """Records a finished step; ``values["flops"]`` are its model FLOPs. Every ``log_every`` steps, writes the other
        values, images per second since the last write and, if the device's peak is known, model FLOPs utilization."""
        if not values.pop("taken", True) and self._writers:
            norms = values["grad_norm"], values["grad_norm/usual"]
            _LOG.warning("step %d left out: gradient norm %.3g, usually %.3g (config.optim.skip_above)", step, *norms)
        self._bar.update(step - self._bar.n)
        self._flops += values["flops"]
        if step % self._log_every and step != self._total:
            return
        now = time.monotonic()
        seconds = max(now - self._clock, 1e-9)
        rate = (step - self._clock_step) * self._images / seconds
        used = observe.utilization(self._flops, seconds, jax.devices(), self._dtype)
        self._clock, self._clock_step, self._flops = now, step, 0.0
        self._bar.set_postfix_str(f"loss {values['loss']:.4f}, {rate:,.0f} images/s")
        values |= {"images_per_s": rate} if used is None else {"images_per_s": rate, "mfu": used}
        if self._writers and not self._terminal:
            shown = ", ".join(form.format(values[name]) for name, form in _STEP_FORMATS.items() if name in values)
            _LOG.info("%s step %d of %d: %s", self._name, step, self._total, shown)
        self.write(step, {f"train/{name}": value for name, value in values.items() if name != "flops"})

    def evaluation(self, step: int, scores: Values) -> None:
        """Writes the headline scores only, not the hundreds by relation and triplet. At the first step, skips those
        that have been written with the same value; one that is another now, of other files or fields, has a further
        line, and readers take the last."""
        headline = {name: scores[name] for name in headlines(scores)}
        if step == self._start:
            # As text, NaN is NaN.
            headline = {name: s for name, s in headline.items() if repr(float(s)) != repr(self._written.get(name))}
        if headline:
            self.write(step, headline)
            if self._writers:
                firsts = {name.split("/")[0]: name for name in reversed(headline)}.values()  # of each benchmark
                chosen = sorted(headline, key=lambda name: name not in firsts)[:_LOGGED]
                shown = ", ".join(f"{name} {headline[name]:.3f}" for name in chosen)
                more = len(headline) - len(chosen)
                rest = f"; {more} more in {recorded.FILE}" if more else ""
                _LOG.info("%s step %d: %s%s", self._name, step, shown, rest)

    def write(self, step: int, values: Values) -> None:
        """Writes the values of ``step`` with every writer."""
        for writer in self._writers:
            writer.values(step, values)

    def image(self, step: int, name: str, png: bytes, caption: str) -> None:
        """Writes a PNG with its caption, for TensorBoard and Weights & Biases."""
        for writer in self._writers:
            writer.image(step, name, png, caption)

    def first_batch(self, png: bytes) -> None:
        """Writes the picture of the first batch."""
        self.image(0, "first_batch", png, "The first batch as the model gets it, with its captions")

    def final(self, step: int, scores: Values, intervals: Intervals, mistakes: Callable[[], Sequence[Example]]) -> None:
        """Writes the scores of the last evaluation as a table, and what it gets wrong as an image."""
        rows = [(name, scores[name], *intervals.get(name, (None, None))) for name in headlines(scores)]
        for writer in self._writers:
            writer.table(step, "scores", ("score", "value", "low (95%)", "high (95%)"), rows)
        if any(writer.image is not writers.ignore for writer in self._writers) and (shown := mistakes()):
            caption = "; ".join(f"{one.benchmark} {one.id}: {' / '.join(one.captions)}" for one in shown)
            self.image(step, "mistakes", mistakes_lib.draw(shown), caption)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time spent inside (an evaluation, a save) from training time."""
        began = time.monotonic()
        yield
        self._clock += time.monotonic() - began

    def close(self) -> None:
        """Closes the files and the progress bar."""
        self._close.close()
