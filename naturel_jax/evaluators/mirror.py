"""A local copy of a results folder in an object store: results, reports and the cache of embeddings are written to a
disk, and changes are uploaded."""

from pathlib import Path

from etils import epath

from naturel_jax import storage
from naturel_jax.storage import object_folders, staging
from naturel_jax.storage.object_stores import Location, in_store

_Stat = tuple[int, int]  # size, and time of the last modification


class Mirror:
    """``local`` is the copy of ``out``, or ``out`` itself if it is on a disk, where the methods do nothing."""

    def __init__(self, out: epath.Path):
        self._out, self._store = out, in_store(out)
        self.local: Path = staging.local_path(out)
        self._uploaded: dict[str, _Stat] = {}
        if self._store:
            storage.check_writable(out, flag="--out")
            self.local.mkdir(parents=True, exist_ok=True)
            self.fetch()

    def fetch(self) -> None:
        """Copies what others have written. Call ``publish`` first, or unpublished changes are lost."""
        if self._store and storage.names(self._out):
            staging.stage(self._out)
            stored = Location(self._out).objects()
            self._uploaded = {name: state for name, state in self._states().items() if name in stored}

    def publish(self, *, without: str = "") -> None:
        """Uploads what has changed, except for the folder ``without``."""
        if not self._store:
            return
        states = self._states()
        changed = [name for name in states if self._uploaded.get(name) != states[name]]
        chosen = [name for name in changed if not without or name.split("/")[0] != without]
        object_folders.upload(chosen, self.local, self._out)
        self._uploaded |= {name: states[name] for name in chosen}

    def _states(self) -> dict[str, _Stat]:
        """Size and time of each file except locks and unfinished ones."""
        names = [name for name in object_folders.files_in(self.local) if not Path(name).name.startswith(".")]
        stats = {name: (self.local / name).stat() for name in names}
        return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
