"""Opens the training data of a run. A data source is an entry in ``SOURCES`` and a file that reads it."""

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from etils import epath

from naturel_jax import preemption, storage
from naturel_jax.config import Data
from naturel_jax.data import prepared
from naturel_jax.data.items import Source
from tfds_naturel import twins
from tfds_naturel.errors import UserError
from tfds_naturel.scenes.scene import CONFIGS as WORLDS
from tfds_naturel.sources import examples as recipe_examples

_LOG = logging.getLogger(__name__)

_TFDS = "tfds"  # the default prefix
_TWIN_SEED, _TWIN_ITEMS = 0, 400
_INCOMPLETE = "incomplete."  # TFDS's prefix of folders that are being written
_POLL_S = 2.0

Opener = Callable[[str, str, str], Source]  # (name without its prefix, config.data.dir, split) -> source


def open_source(dataset: str, data_dir: str, split: str) -> Source:
    """Opens ``split`` of ``dataset``, which is ``<prefix>:<name>`` with a prefix in ``SOURCES`` (default: ``tfds``).

    Raises UserError for an unknown prefix, and whatever the opener raises.
    """
    prefix, name = _parse(dataset)
    if prefix not in SOURCES:
        raise UserError(
            f"config.data.mixture: dataset {dataset!r} has prefix {prefix!r}; expected {', '.join(SOURCES)}"
        )
    return SOURCES[prefix](name, data_dir, split)


def _parse(dataset: str) -> tuple[str, str]:
    prefix, colon, name = dataset.partition(":")
    return (prefix, name) if colon else (_TFDS, dataset)


def _open_tfds(name: str, data_dir: str, split: str) -> Source:
    return prepared.open_source(directory(data_dir, name), split)


SOURCES: dict[str, Opener] = {
    _TFDS: _open_tfds,
}


def trained_on(data: Data) -> dict[str, list[str]]:
    """The benchmark items in the training data, by collection (``tfds_naturel.sources.examples.used``); a run is scored
    only on the others."""
    items: dict[str, set[str]] = {}
    for part in data.mixture.values():
        prefix, name = _parse(part.dataset)
        if prefix == _TFDS:
            for collection, used in recipe_examples.used(directory(data.dir, name)).items():
                items.setdefault(collection, set()).update(used)
    return {collection: sorted(used) for collection, used in items.items()}


def directory(data_dir: str, dataset: str) -> epath.Path:
    """The folder of the TFDS dataset ``<name>/<config>`` under ``data_dir``: its highest version.

    Missing scenes worlds are drawn first, by the first process, which may raise Stopped. Raises UserError for any other
    missing dataset.
    """
    root = epath.Path(data_dir) / dataset
    name, _, config = dataset.partition("/")
    if name == "naturel" and config in WORLDS:
        preemption.on_first_process(lambda: _draw_world(data_dir, config))
    versions = {
        tuple(map(int, path.parent.name.split("."))): path.parent
        for path in root.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    }
    if not versions:
        raise UserError(
            f"dataset {dataset!r} is not prepared under {data_dir} (config.data.dir): "
            f"no {root}/<version>/dataset_info.json. See 'Build NatuRel' in the README"
        )
    return versions[max(versions)]


def twins_directory(data_dir: str, config: str) -> Path:
    """The folder with the benchmark twins of the scenes world ``config``, written first if it is missing, which may
    raise Stopped."""
    out = Path(data_dir) / "twins" / config
    finished = out / "README.md"  # written last

    def write() -> None:
        with _only_writer(out, finished) as missing:
            if missing:
                _LOG.info("writing the benchmark twins of %s to %s", config, out)
                twins.write(out, WORLDS[config], _TWIN_SEED, _TWIN_ITEMS, preemption.check)

    preemption.on_first_process(write)
    return out


def _draw_world(data_dir: str, config: str) -> None:
    from tfds_naturel.naturel import Naturel  # imports TFDS, which is slow

    builder = Naturel(config=config, data_dir=os.fspath(data_dir), check=preemption.check)
    folder = epath.Path(builder.data_dir)
    with _only_writer(folder.parent, folder / "dataset_info.json") as missing:
        if missing:
            for leftover in folder.parent.glob(f"{_INCOMPLETE}*_{folder.name}"):  # of a process that was killed
                leftover.rmtree()
            _LOG.info("drawing naturel/%s into %s", config, folder)
            builder.download_and_prepare()


@contextlib.contextmanager
def _only_writer(folder: epath.Path, finished: epath.Path) -> Iterator[bool]:
    """Yields whether the file ``finished``, which is written last, is missing. If so, this process has a lease on
    ``folder``, after waiting for any other process that is writing there."""
    waiting = False
    while not finished.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(storage.lease(folder))
            except UserError as error:
                if not waiting:
                    _LOG.info("waiting: %s", str(error).partition(";")[0])
                waiting = True
                preemption.check()
                time.sleep(_POLL_S)
                continue
            yield not finished.exists()
            return
    yield False
