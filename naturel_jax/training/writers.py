"""Where a run's numbers, images and tables go: JSON lines, TensorBoard, Weights & Biases."""

import contextlib
import io
import json
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from etils import epath
from PIL import Image

from naturel_jax import storage
from naturel_jax.checkpoints import recorded
from naturel_jax.config import Config
from naturel_jax.config.settings import flat
from naturel_jax.config.versions import to_json
from naturel_jax.storage import object_folders, scratch
from naturel_jax.storage.object_stores import in_store
from tfds_naturel.common import escape

Values = dict[str, float]
Row = Sequence[str | float | None]


def ignore(*_: object) -> None:
    """Numbers are all that JSON lines have."""


class Writer(NamedTuple):
    """Each function is called with the step first: ``values``; ``image`` with a name, a PNG and its caption; ``table``
    with a name, the names of its columns, and its rows."""

    values: Callable[[int, Values], object]
    image: Callable[[int, str, bytes, str], object] = ignore
    table: Callable[[int, str, Sequence[str], Sequence[Row]], object] = ignore


_UPLOAD_S = 30.0  # between uploads of TensorBoard's file to an object store; another follows at the end


def open_all(config: Config, workdir: epath.Path, start: int, closing: contextlib.ExitStack) -> list[Writer]:
    """The writers of a run that begins at step ``start``; ``closing`` closes them."""
    lines = workdir / recorded.FILE
    drop_lines(lines, start)

    def append(step: int, values: Values) -> None:
        line = {"step": step, recorded.TIME: round(time.time(), 3), **values}
        storage.append(lines, storage.sealed(line) + "\n")

    writers = [Writer(append)]
    if config.tensorboard:
        writers.append(_tensorboard(config, workdir / "tensorboard", start, closing))
    if config.wandb:
        writers.append(_wandb(config, workdir, closing))
    return writers


def drop_lines(path: epath.Path, start: int) -> None:
    """Removes the lines of steps after ``start`` from a ``metrics.jsonl``, atomically."""
    rows = storage.read_json_lines(path)
    if path.name in storage.names(path.parent):
        storage.write(path, "".join(storage.sealed(row) + "\n" for row in rows if row["step"] <= start))


def _tensorboard(config: Config, folder: epath.Path, start: int, closing: contextlib.ExitStack) -> Writer:
    # Optional by config, and slow to import. tensorboardX.SummaryWriter writes in a thread that ends silently at the
    # first disk error; the run would then wait for its queue forever.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboardX.summary import hparams, scalar, text

    local = closing.enter_context(object_folders.written_locally(folder))
    local.mkdir(parents=True, exist_ok=True)
    board, uploaded = EventsWriter(str(local / "events")), time.monotonic()

    def close() -> None:
        with storage.naming(folder):
            board.close()

    def write(*events: Event) -> None:
        nonlocal uploaded
        with storage.naming(folder):
            for event in events:
                event.wall_time = time.time()
                board.write_event(event)
            board.flush()
        if in_store(folder) and time.monotonic() - uploaded > _UPLOAD_S:
            uploaded = time.monotonic()
            object_folders.upload(object_folders.files_in(local), local, folder)

    def image(step: int, name: str, png: bytes, caption: str) -> None:
        with Image.open(io.BytesIO(png)) as opened:
            width, height = opened.size
        encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        metadata = SummaryMetadata(display_name=name, summary_description=caption)
        write(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, image=encoded, metadata=metadata)])))

    def table(step: int, name: str, head: Sequence[str], rows: Sequence[Row]) -> None:
        write(Event(step=step, summary=text(name, _markdown(head, rows))))

    closing.callback(close)
    # Readers drop what an interrupted run wrote after its last checkpoint.
    write(Event(step=start, session_log=SessionLog(status=SessionLog.START)))
    if start == 0:
        write(Event(summary=text("config", f"```json\n{json.dumps(to_json(config), indent=1)}\n```")))
        # Without a list of metrics, TensorBoard's table of hyperparameters shows all that a run has written.
        own = {name: _hyperparameter(x) for name, (_, x) in flat(config).items() if not name.startswith("bases.")}
        _, session, _ = hparams(own, {})
        write(Event(summary=session))
    return Writer(
        lambda step, values: write(*(Event(step=step, summary=scalar(name, x)) for name, x in values.items())),
        image,
        table,
    )


def _hyperparameter(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def _markdown(head: Sequence[str], rows: Sequence[Row]) -> str:
    """A table in Markdown."""
    shown = (
        [f"{cell:.4f}" if isinstance(cell, float) else escape.markdown(cell or "") for cell in row] for row in rows
    )
    first, *others = (f"| {' | '.join(line)} |" for line in (head, *shown))
    return "\n".join([first, "| --- " * len(head) + "|", *others])


def _wandb(config: Config, workdir: epath.Path, closing: contextlib.ExitStack) -> Writer:
    import wandb

    local = closing.enter_context(scratch.folder()) if in_store(workdir) else workdir
    names = {"project": config.wandb, "group": config.wandb_group or None, "name": config.name}
    # Some fields may change when a run goes on, such as its duration.
    settings = {"config": to_json(config), "allow_val_change": True}
    run = wandb.init(**names, dir=str(local), id=_identity(workdir), resume="allow", **settings)
    closing.callback(run.finish)

    def image(step: int, name: str, png: bytes, caption: str) -> None:
        with Image.open(io.BytesIO(png)) as opened:
            run.log({name: wandb.Image(opened, caption=caption)}, step=step)

    def table(step: int, name: str, head: Sequence[str], rows: Sequence[Row]) -> None:
        run.log({name: wandb.Table(columns=list(head), data=[list(row) for row in rows])}, step=step)

    return Writer(lambda step, values: run.log(values, step=step), image, table)


def _identity(workdir: epath.Path) -> str:
    """The run's id in Weights & Biases, drawn once and kept in ``workdir``: folders on other machines may have the same
    name and path, and runs that share an id are merged."""
    path = workdir / "wandb_id"
    storage.create(path, f"{workdir.name}-{uuid.uuid4().hex[:8]}")
    return storage.read(path)
