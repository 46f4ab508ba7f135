"""Finds the prepared datasets of a run, and draws the scenes worlds where they are missing."""

import logging
import os
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from naturel_jax.data.items import Source, open_source
from tfds_naturel import twins
from tfds_naturel.scenes.scene import CONFIGS as WORLDS

_LOG = logging.getLogger(__name__)

_TWIN_SEED, _TWIN_ITEMS = 0, 400


def directory(data_dir: str, dataset: str) -> Path:
    """The folder of ``dataset`` (``<name>/<config>``) under ``data_dir``: its highest version.

    Scenes worlds that are missing are drawn first, by the first process. Raises FileNotFoundError for any other
    missing dataset.
    """
    root = Path(data_dir) / dataset
    name, _, config = dataset.partition("/")
    if name == "naturel" and config in WORLDS:
        _once(lambda: _draw(data_dir, config))
    versions = sorted(root.glob("*/dataset_info.json"), key=lambda path: [int(n) for n in path.parent.name.split(".")])
    if not versions:
        raise FileNotFoundError(
            f"dataset {dataset!r} is not prepared under {data_dir} (config.data.dir): "
            f"no {root}/<version>/dataset_info.json. README, 'Build NatuRel', says how to build it"
        )
    return versions[-1].parent


def source(data_dir: str, dataset: str, split: str) -> Source:
    """``split`` of ``dataset``, opened. Raises what ``directory`` and ``open_source`` raise."""
    return open_source(directory(data_dir, dataset), split)


def twins_directory(data_dir: str, config: str) -> Path:
    """The folder with the benchmark twins of a scenes world, written when it is missing."""
    out = Path(data_dir) / "twins" / config
    finished = out / "README.md"  # written last

    def write():
        if not finished.exists():
            _LOG.info("writing the benchmark twins of %s to %s", config, out)
            twins.write(out, WORLDS[config], _TWIN_SEED, _TWIN_ITEMS)

    _once(write)
    return out


def _draw(data_dir: str, config: str) -> None:
    from tfds_naturel.naturel import Naturel  # imports TFDS, which is slow

    builder = Naturel(config=config, data_dir=os.fspath(data_dir))
    if not os.path.exists(os.path.join(builder.data_dir, "dataset_info.json")):
        _LOG.info("drawing naturel/%s into %s", config, builder.data_dir)
        builder.download_and_prepare()


def _once(work) -> None:
    """Runs ``work`` in the first process; the others wait for it (all share ``config.data.dir``, or find it filled)."""
    if jax.process_index() == 0:
        work()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("datasets")
