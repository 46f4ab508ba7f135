"""Everything that a run writes or locks goes through here: atomic replacement, exclusive creation, appending, leases.

Paths are ``etils.epath``'s. What is offered is what object stores can do too (an object is written as a whole, created
if absent, or listed), so callers need no change when a store takes the place of the local disk.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from tfds_naturel.errors import UserError


def write(path: epath.Path, text: str) -> None:
    """Replaces ``path`` by ``text`` in one step: a reader sees the old content or the new, also after a crash."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def create(path: epath.Path, text: str) -> bool:
    """Creates ``path`` with ``text``; False, and nothing changes, where it exists already. Exactly one of several
    processes that try succeeds."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_text(text)
        os.link(partial, path)  # unlike a rename, a link does not replace what is there
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def append(path: epath.Path, text: str) -> None:
    """Adds ``text`` to the end of ``path`` in one write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def read_json(path: epath.Path) -> Any:
    """The JSON in ``path``. Raises UserError that names the file when it is torn or not JSON."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); move it away to go on without it") from error


def read_json_lines(path: epath.Path) -> list[dict[str, Any]]:
    """The JSON objects in ``path``, one a line; [] without the file. A torn last line is left out: it was being
    written. Raises UserError that names the line for any other that is not an object."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text().splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path} line {number}: not JSON ({error}); remove the line to go on without it") from error
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: {line.strip()!r:.80} is not a JSON object; remove the line")
        rows.append(row)
    return rows


def numbered(folder: epath.Path) -> list[int]:
    """The entries of ``folder`` whose names are whole numbers, in ascending order; [] without the folder."""
    if not folder.exists():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def check_writable(folder: epath.Path, needed_bytes: int = 0) -> None:
    """Makes ``folder``. Raises OSError where it cannot be written or has fewer than ``needed_bytes`` free."""
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"workdir {folder} cannot be written: {error.strerror or error}; choose another with --workdir"
        ) from error
    if (free := shutil.disk_usage(folder).free) < needed_bytes:
        raise OSError(
            f"workdir {folder} has {free / 1e9:.2f} GB free; a checkpoint needs about "
            f"{needed_bytes / 1e9:.2f} GB: free some space or choose another with --workdir"
        )


# ---- Leases ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lease: a token of its own, host, process, and when it began and last said so (Unix seconds)."""

    token: str
    host: str
    process: int
    since: float
    heartbeat: float

    def gone(self, expires_s: float) -> bool:
        """Processes of this host are looked up; another host's is gone once its heartbeat is ``expires_s`` old."""
        if self.host != socket.gethostname():
            return time.time() - self.heartbeat > expires_s
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it is another user's, and alive
            return False
        return False


class Lease:
    """One owner of a folder. ``check`` raises once another process has taken it."""

    def __init__(self, path: epath.Path, holder: Holder):
        self._path, self._holder = path, holder

    def check(self) -> None:
        """Raises RuntimeError when this process is no longer the owner: it must not write then."""
        found = _holder(self._path)
        if found is None or found.token != self._holder.token:
            raise RuntimeError(f"{self._path.parent} was taken over by {found or 'nobody'}; this process stops writing")

    def renew(self) -> None:
        """Says that this process is alive. Raises as ``check``."""
        self.check()
        holder = dataclasses.replace(self._holder, heartbeat=time.time())
        write(self._path, json.dumps(dataclasses.asdict(holder)))


@contextlib.contextmanager
def lease(folder: epath.Path, expires_s: float = 120.0) -> Iterator[Lease]:
    """Holds ``folder`` for this process, renewed in the background, and releases it at the end.

    Raises UserError when another process holds it: one of this host that is alive, or one of another host whose
    heartbeat is younger than ``expires_s``.
    """
    path, now = folder / "lease.json", time.time()
    mine = Holder(uuid.uuid4().hex, socket.gethostname(), os.getpid(), now, now)
    if (found := _holder(path)) is not None and found.gone(expires_s):
        path.unlink(missing_ok=True)
    if not create(path, json.dumps(dataclasses.asdict(mine))):
        found = _holder(path)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.since)) if found else "now"
        who = f"process {found.process} on {found.host}" if found else "another process"
        raise UserError(f"{folder} is in use by {who} since {since}; wait for it, stop it, or choose another --workdir")
    held, ended = Lease(path, mine), threading.Event()

    def keep() -> None:
        while not ended.wait(expires_s / 6):
            with contextlib.suppress(OSError, RuntimeError):  # whoever writes next calls check, and hears of it
                held.renew()

    threading.Thread(target=keep, name="lease", daemon=True).start()
    try:
        yield held
    finally:
        ended.set()
        if (found := _holder(path)) is not None and found.token == mine.token:
            path.unlink(missing_ok=True)


def _holder(path: epath.Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # torn: it was being written on a disk that then failed
        return Holder("", "unknown", 0, 0.0, 0.0)
