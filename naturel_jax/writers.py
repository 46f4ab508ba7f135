"""Where a run's numbers go: JSON lines, TensorBoard, Weights & Biases."""

import contextlib
import hashlib
import json
from collections.abc import Callable

from etils import epath

from naturel_jax import storage
from naturel_jax.config import Config
from tfds_naturel.errors import UserError

Values = dict[str, float]
Writer = Callable[[int, Values], object]  # step, values


def open_all(config: Config, workdir: epath.Path, start: int, closing: contextlib.ExitStack) -> list[Writer]:
    """The writers of a run that begins at step ``start``; ``closing`` closes them. Raises UserError if wandb is asked
    for but not installed."""
    lines = workdir / "metrics.jsonl"
    writers: list[Writer] = [lambda step, values: storage.append(lines, json.dumps({"step": step, **values}) + "\n")]
    if config.tensorboard:
        writers.append(_tensorboard(workdir / "tensorboard", start, closing))
    if config.wandb:
        writers.append(_wandb(config, workdir, closing))
    return writers


def _tensorboard(folder: epath.Path, start: int, closing: contextlib.ExitStack) -> Writer:
    import tensorboardX  # optional by config, and slow to import

    board = tensorboardX.SummaryWriter(str(folder), purge_step=start)
    closing.callback(board.close)
    return lambda step, values: [board.add_scalar(name, value, step) for name, value in values.items()]


def _wandb(config: Config, workdir: epath.Path, closing: contextlib.ExitStack) -> Writer:
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"config.wandb is {config.wandb!r}, but wandb is not installed: pip install wandb") from error
    digest = hashlib.blake2b(str(workdir.absolute()).encode(), digest_size=4).hexdigest()
    identity = f"{workdir.name}-{digest}"  # folders with the same name in different places are different runs
    run = wandb.init(project=config.wandb, name=config.name, dir=str(workdir), id=identity, resume="allow")
    closing.callback(run.finish)
    return lambda step, values: run.log(values, step=step)
