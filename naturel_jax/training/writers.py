"""Where a run's numbers go: JSON lines, TensorBoard, Weights & Biases."""

import contextlib
import time
import uuid
from collections.abc import Callable

from etils import epath

from naturel_jax import storage
from naturel_jax.checkpoints import recorded
from naturel_jax.config import Config
from naturel_jax.storage import object_folders, scratch
from naturel_jax.storage.object_stores import in_store

Values = dict[str, float]
Writer = Callable[[int, Values], object]  # step, values

_UPLOAD_S = 30.0  # between uploads of TensorBoard's file to an object store; another follows at the end


def open_all(config: Config, workdir: epath.Path, start: int, closing: contextlib.ExitStack) -> list[Writer]:
    """The writers of a run that begins at step ``start``; ``closing`` closes them."""
    lines = workdir / recorded.FILE
    drop_lines(lines, start)

    def append(step: int, values: Values) -> None:
        line = {"step": step, recorded.TIME: round(time.time(), 3), **values}
        storage.append(lines, storage.sealed(line) + "\n")

    writers: list[Writer] = [append]
    if config.tensorboard:
        writers.append(_tensorboard(workdir / "tensorboard", start, closing))
    if config.wandb:
        writers.append(_wandb(config, workdir, closing))
    return writers


def drop_lines(path: epath.Path, start: int) -> None:
    """Removes the lines of steps after ``start`` from a ``metrics.jsonl``, atomically."""
    rows = storage.read_json_lines(path)
    if path.name in storage.names(path.parent):
        storage.write(path, "".join(storage.sealed(row) + "\n" for row in rows if row["step"] <= start))


def _tensorboard(folder: epath.Path, start: int, closing: contextlib.ExitStack) -> Writer:
    # Optional by config, and slow to import. tensorboardX.SummaryWriter writes in a thread that ends silently at the
    # first disk error; the run would then wait for its queue forever.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import scalar

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

    closing.callback(close)
    # Readers drop what an interrupted run wrote after its last checkpoint.
    write(Event(step=start, session_log=SessionLog(status=SessionLog.START)))
    return lambda step, values: write(*(Event(step=step, summary=scalar(name, x)) for name, x in values.items()))


def _wandb(config: Config, workdir: epath.Path, closing: contextlib.ExitStack) -> Writer:
    import wandb

    local = closing.enter_context(scratch.folder()) if in_store(workdir) else workdir
    names = {"project": config.wandb, "group": config.wandb_group or None, "name": config.name}
    run = wandb.init(**names, dir=str(local), id=_identity(workdir), resume="allow")
    closing.callback(run.finish)
    return lambda step, values: run.log(values, step=step)


def _identity(workdir: epath.Path) -> str:
    """The run's id in Weights & Biases, drawn once and kept in ``workdir``: folders on other machines may have the same
    name and path, and runs that share an id are merged."""
    path = workdir / "wandb_id"
    storage.create(path, f"{workdir.name}-{uuid.uuid4().hex[:8]}")
    return storage.read(path)
