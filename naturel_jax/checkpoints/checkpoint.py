"""Orbax checkpoints: parameters, optimizer state, step, config and processor together. See ``uploads`` for those in an
object store.

``<workdir>/checkpoints/<step>/`` holds the items ``params``, ``optimizer``, ``ema`` (if a moving average is kept)
and ``meta`` (JSON: model sizes, processor, config, versions). The step number is also the data position.
"""

import asyncio
import contextlib
import logging
import random
import shutil
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from naturel_jax import storage
from naturel_jax.checkpoints import manifest, uploads
from naturel_jax.checkpoints.kept import Kept
from naturel_jax.checkpoints.restore import failures_explained, read
from naturel_jax.storage import object_folders
from naturel_jax.storage.object_stores import in_store
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)

_UNFINISHED, _REMOVED = ocp.path.atomicity.TMP_DIR_SUFFIX, ".removed-"


class _Manager(ocp.CheckpointManager):
    """Does not ask JAX whether to stop. JAX lets processes agree on the highest number that they asked with, plus one:
    ``preemption`` asks with its number of calls, Orbax with the step in every save. After a save, processes would agree
    on a number that has passed, and never stop."""

    def reached_preemption(self, step: int) -> bool:
        return False


class _Loop(asyncio.SelectorEventLoop):
    """Ignores what comes after its end. When an array cannot be written, Orbax ends its loop, and TensorStore reports
    each of the others to it, which would print a traceback each."""

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *arguments: Any, context: Any = None
    ) -> asyncio.Handle:
        if self.is_closed():
            return asyncio.Handle(callback, arguments, self, context)
        return super().call_soon_threadsafe(callback, *arguments, context=context)


def _ignore_closed_loops() -> None:
    """Makes every new event loop a ``_Loop``. Policies are deprecated since Python 3.14, but Orbax creates its own
    loops."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        policy = type("_Loops", (asyncio.DefaultEventLoopPolicy,), {"_loop_factory": _Loop})
        asyncio.set_event_loop_policy(policy())


class _Unfinished(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A checkpoint that is being written. The name is of one owner of the folder only: another can neither write into
    it nor give it its final name."""

    owner = ""  # the same in all processes of a run, and different at each start

    @classmethod
    def from_final(cls, final_path: epath.Path, **options: Any) -> "_Unfinished":
        return cls(final_path.with_name(f"{final_path.name}{_UNFINISHED}-{cls.owner}"), final_path, **options)


class Checkpoints:
    """Saves and restores the state of one run. ``keep``, ``every``: see ``Kept``."""

    def __init__(self, workdir: epath.PathLike, *, keep: int, every: Collection[int] = ()):
        self.directory = directory(workdir)
        self._kept = Kept(keep, every)
        self._saving = -1  # step of the latest save or restore
        self._failed = False  # whether a save has
        self._manager: ocp.CheckpointManager | None = None
        self._uploads = uploads.Uploads(self.directory, self._kept) if in_store(self.directory) else None

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            _ignore_closed_loops()
            _Unfinished.owner = f"{int(multihost_utils.broadcast_one_to_all(np.uint32(random.getrandbits(32)))):08x}"
            options = ocp.CheckpointManagerOptions(
                preservation_policy=self._kept,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifest),
                temporary_path_class=_Unfinished,
                lightweight_initialize=True,  # the metadata of steps, which are only times here, may be damaged
            )
            self._manager = _Manager(self.directory, options=options)
        return self._manager

    def _remove_unfinished(self) -> None:
        """Removes what saves have left that failed, or whose process was killed. One that was only paused, and has lost
        its lease, then has nothing to give a final name to. The folders get another name first: removing takes time."""
        if jax.process_index() > 0 or in_store(self.directory):
            return
        storage.check_leases(self.directory)
        for name in storage.names(self.directory):
            if _UNFINISHED in name or name.startswith(_REMOVED):
                path = self.directory / f"{_REMOVED}{uuid.uuid4().hex}"
                (self.directory / name).rename(path)
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Explains a failed save, and removes it."""
        try:
            with failures_explained(self.directory):
                yield
        except OSError:
            self._failed = True
            with contextlib.suppress(OSError):
                self._remove_unfinished()
            raise

    def save(self, step: int, arrays: dict[str, Any], meta: dict[str, Any], *, wait: bool = False) -> None:
        """Saves the items ``arrays`` (trees) and ``meta`` in the background; ``wait`` blocks until all is on disk.

        Raises OSError if this checkpoint or the one before it could not be written."""
        storage.check_leases(self.directory)
        with self._explained():
            if self._uploads:
                if step != self._saving:
                    self._uploads.save(step, arrays, meta)
                    self._saving = step
                if wait:
                    self._uploads.wait()
                return
            manager = self._open()
            if step not in manager.all_steps():
                manager.wait_until_finished()
                self._saving = step
                items = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
                manager.save(step, args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta)), force=True)
            if wait:
                manager.wait_until_finished()

    def _write_manifest(self) -> None:
        """Called by Orbax in the background once all items are written, before it renames the folder and removes the
        oldest checkpoint; an error here prevents both."""
        if jax.process_index() == 0:
            storage.check_leases(self.directory)
            manifest.write(_Unfinished.from_final(self.directory / str(self._saving)).get())

    def restore(
        self, arrays: dict[str, Any], check: Callable[[dict[str, Any]], None]
    ) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """The newest intact checkpoint as (step, arrays, meta), its items sharded as given by the trees of
        ``jax.ShapeDtypeStruct`` in ``arrays``; None if there is no checkpoint.

        ``check(meta)`` should raise if the checkpoint belongs to a run that ``arrays`` do not fit. It is called before
        the arrays are read. A damaged checkpoint is logged and renamed to ``<step>.broken``, and the one before it is
        used. Raises UserError if all were damaged, OSError if a checkpoint could not be read for any other reason (it
        is left as it is).
        """
        self._remove_unfinished()
        items = {name: ocp.args.StandardRestore(tree) for name, tree in arrays.items()}
        for step in reversed(saved_steps(self.directory.parent)):
            try:
                meta = read(self.directory / str(step), meta=ocp.args.JsonRestore())["meta"]
                check(meta)
                restored = read(self.directory / str(step), **items)
                self._saving = step
                return step, restored, meta
            except manifest.Damaged as error:
                self._set_aside(step, error)
        if broken := [name for name in storage.names(self.directory) if ".broken" in name]:
            raise UserError(
                f"none of the checkpoints in {self.directory} can be read; damaged and set aside: {', '.join(broken)}. "
                "To start over from step 0, delete them or use another --workdir"
            )
        return None

    def _set_aside(self, step: int, error: manifest.Damaged) -> None:
        name = storage.unused_name(self.directory / f"{step}.broken")
        multihost_utils.sync_global_devices("broken")  # all processes have chosen the same name, and read nothing more
        _LOG.error("checkpoint %s cannot be read and is kept as %s: %.300s", self.directory / str(step), name, error)
        if jax.process_index() == 0:
            storage.check_leases(self.directory)
            if in_store(self.directory):
                object_folders.move(self.directory / str(step), self.directory / name, first=manifest.NAME)
            else:
                (self.directory / str(step)).rename(self.directory / name)

    def close(self) -> None:
        """Waits for pending saves. Raises OSError if they fail."""
        if self._uploads:
            with failures_explained(self.directory):
                self._uploads.close()
        if self._manager is not None:
            manager, self._manager = self._manager, None
            with self._explained():
                manager.close()
            if self._failed:  # other threads of that save may have written since
                with contextlib.suppress(OSError):
                    self._remove_unfinished()


def directory(workdir: epath.PathLike) -> epath.Path:
    """The folder of a run's checkpoints."""
    return storage.absolute(epath.Path(workdir)) / "checkpoints"


def saved_steps(workdir: epath.PathLike) -> list[int]:
    """Steps of a run's finished checkpoints, in ascending order."""
    folder = directory(workdir)
    return uploads.complete(folder) if in_store(folder) else storage.numbered(folder)
