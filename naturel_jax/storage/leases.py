"""Leases: one process at a time owns a folder, whatever clocks, host names and process ids say.

``lease.json`` in the folder names the owner. Who may take it over:

- *On one machine*, the kernel decides. On a disk, the owner has a lock on the file (flock itself, since filelock opens
  files by their path, from which a takeover renames the lease away), which the kernel releases when the process ends,
  however it does; this holds for all containers of a machine. In an object store, the process
  is looked up by its id, its PID namespace and the time at which it started, which no other process ever shares.
- *Across machines*, the owner renews the file, and a process that wants it watches the file by its own monotonic
  clock: if it does not change for the whole period, the owner is gone.

Taking over is atomic: on a disk, the old file is renamed away and a new one linked; in a store, the write is
conditional. A renewal on a disk goes into the owner's own file, wherever that is by then, so an owner that was paused
and has lost its lease cannot take it back.
"""

import atexit
import contextlib
import dataclasses
import fcntl
import functools
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from naturel_jax.storage import state
from naturel_jax.storage.object_stores import ABSENT, Changed, Location, in_store
from tfds_naturel.common.errors import Unavailable, UserError
from tfds_naturel.common.files import parse_json, read_regular

_LOG = logging.getLogger(__name__)

NAME = "lease.json"
PERIOD_S = 120.0
_RENEWALS = 6  # in a period
_LOCKED_S = 2.0  # a takeover takes milliseconds


@dataclasses.dataclass(frozen=True)
class Holder:
    """The holder of a lease. ``token`` is unique, ``boot`` the id of its kernel's boot ("": not known, or it has no
    lock), ``started`` its PID namespace and start time; host, process and since are for messages."""

    token: str
    host: str
    process: int
    since: float
    boot: str
    started: str

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.process} on {self.host} since {since}"

    def runs(self, path: epath.Path) -> bool | None:
        """Whether the process that holds the lease ``path`` runs; None if this machine's kernel does not know."""
        if not self.boot or self.boot != _boot():
            return None
        if in_store(path):
            if not self.started.startswith(f"{_namespace()} "):
                return None
            found = _started(self.process)
            return None if not found and _is_of_another_user(self.process) else found == self.started
        try:
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False


@functools.cache
def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


@functools.cache
def _namespace() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _started(process: int) -> str:
    """PID namespace and start time of a process of this namespace; "" if there is none."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        if fields[0] not in "ZX":  # ended, but its parent has not asked
            return f"{_namespace()} {fields[19]}"
    return ""


def _is_of_another_user(process: int) -> bool:
    """Whether there is a process that this user may not signal: where /proc has the option hidepid, it shows none."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return False


class InUse(UserError):
    """Another process holds the lease on ``folder``."""

    def __init__(self, folder: epath.Path, holder: object):
        super().__init__(f"{folder} is in use by {holder}; wait for it, stop it, or choose another --workdir")
        self.folder = folder


class LostLease(UserError):
    """Another process has taken the lease over, so this one must not write."""


class Lease:
    """A held lease. ``check`` raises once another process has taken it over."""

    def __init__(self, path: epath.Path):
        self._path, self._renewals, self._file = path, 0, -1
        process = os.getpid()
        host, since, boot = socket.gethostname(), time.time(), _boot()
        self._holder = Holder(uuid.uuid4().hex, host, process, since, boot, _started(process))

    def create(self) -> bool:
        """Writes the file, and locks it on a disk; False if there is one."""
        if in_store(self._path):
            return state.create(self._path, self._text())
        with state.partial(self._path) as partial:
            self._file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # the file system has no locks
                self._holder = dataclasses.replace(self._holder, boot="")
            os.write(self._file, self._text().encode())
            try:
                os.link(partial, self._path)  # unlike a rename, a link does not replace what is there
            except FileExistsError:
                os.close(self._file)
                return False
        return True

    def take_over(self, version: str) -> bool:
        """Replaces the file if it still has ``version``; whether it had. Exactly one of several processes succeeds."""
        if in_store(self._path):
            with contextlib.suppress(Changed, FileNotFoundError):
                Location(self._path).put(self._text().encode(), version)
                return True
            return False
        return _remove(self._path, version.__eq__) and self.create()

    def check(self) -> None:
        """Raises LostLease if this process is no longer the owner."""
        holder, _ = _read(self._path)
        if holder is None or holder.token != self._holder.token:
            raise LostLease(
                f"{self._path.parent}: this process has lost its lease, which {holder or 'no one'} holds now; it stops "
                "without writing. Let the other run finish, or choose another --workdir"
            )

    def renew(self) -> None:
        """Changes the file, if it is still this process's: in a store, on that condition; on a disk, in place."""
        self._renewals += 1
        if not in_store(self._path):
            os.pwrite(self._file, self._text().encode(), 0)  # as long as before
            os.fsync(self._file)
            return
        holder, version = _read(self._path)
        if holder is not None and holder.token == self._holder.token:
            self.take_over(version)

    def release(self) -> None:
        """Removes the file, if it is still this process's; a child that was forked has another id."""
        if self._holder.process != os.getpid():
            return
        with contextlib.suppress(Unavailable):  # others then watch it for a period
            if not in_store(self._path):
                _remove(self._path, lambda text: self._holder.token in text)
                os.close(self._file)
            elif (holder := _read(self._path)[0]) is not None and holder.token == self._holder.token:
                state.delete(self._path)

    def _text(self) -> str:
        return json.dumps({**dataclasses.asdict(self._holder), "renewals": f"{self._renewals:012}"})


def _remove(path: epath.Path, is_expected: Callable[[str], bool]) -> bool:
    """Removes a lease from the disk if it has the expected text; whether this process did.

    A lease of somebody else is not moved, not even for a moment, in which another process would find none: the folder
    is locked while the text is compared. Where the file system has no locks, it is compared again and put back.
    """
    with _locked(path.parent), state.partial(path) as claimed:
        try:
            if not is_expected(path.read_bytes().decode(errors="replace")):
                return False
            path.rename(claimed)  # only one of several processes finds it
        except FileNotFoundError:
            return False
        if is_expected(claimed.read_bytes().decode(errors="replace")):
            return True
        with contextlib.suppress(FileExistsError):
            os.link(claimed, path)
        return False


@contextlib.contextmanager
def _locked(folder: epath.Path) -> Iterator[None]:
    """Holds the kernel's lock on a folder, if its file system has locks. After ``_LOCKED_S`` seconds it goes on
    without: no process of ours holds the lock that long."""
    file = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + _LOCKED_S
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                break
        yield
    finally:
        os.close(file)


def _read(path: epath.Path) -> tuple[Holder | None, str]:
    """(holder, version of its file). A damaged file has a holder of whom nothing is known. Raises UserError for a pipe
    or device."""
    try:
        if in_store(path):
            content, version = Location(path).get()
            text = content.decode(errors="replace")
        else:
            text = version = read_regular(Path(path)).decode(errors="replace")
    except FileNotFoundError:
        return None, ABSENT
    with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError, AttributeError):
        row: dict[str, Any] = parse_json(text)
        process, since = int(row["process"]), float(row["since"])
        token, host, boot, started = (str(row.get(name, "")) for name in ("token", "host", "boot", "started"))
        if 0 < process < 1 << 31 and 0 <= since < 1 << 40:
            return Holder(token, host, process, since, boot, started), version
    return Holder("", "unknown", 0, 0.0, "", ""), version


@contextlib.contextmanager
def lease(folder: epath.Path, period_s: float = PERIOD_S) -> Iterator[Lease]:
    """Holds a lease on ``folder`` for this process, renews it in the background, and releases it on exit.

    Raises InUse if another process holds it: at once if that runs on this machine, else as soon as it has been seen
    to renew it. A holder on another machine that is gone is waited for during ``period_s``, and Stopped is raised if
    the process should stop meanwhile.
    """
    held, ended = Lease(folder / NAME), threading.Event()
    _take(held, folder / NAME, period_s)
    atexit.register(held.release)  # if the process ends without leaving this block
    state.guards[state.absolute(folder)] = held.check

    def renew() -> None:
        while not ended.wait(period_s / _RENEWALS):
            with contextlib.suppress(OSError):  # the next write calls check, which reports it
                held.renew()

    renewal = threading.Thread(target=renew, name="lease", daemon=True)
    renewal.start()
    try:
        yield held
    finally:
        ended.set()
        renewal.join()
        del state.guards[state.absolute(folder)]
        atexit.unregister(held.release)
        held.release()


def _take(mine: Lease, path: epath.Path, period_s: float) -> None:
    """Makes ``mine`` the lease, once there is none or its holder is gone. Raises what ``lease`` raises."""
    watched: str | None = None
    began = told = 0.0
    while True:
        now = time.monotonic()  # before reading, which may take long
        holder, version = _read(path)
        if holder is None:
            taken = mine.create()
            break
        runs = holder.runs(path)
        if runs is None and watched is None:
            watched, began, told = version, time.monotonic(), -period_s
        if runs or watched not in (None, version):
            taken = False
            break
        if runs is False or now - began >= period_s:
            taken = mine.take_over(version)
            break
        if now - told >= period_s / _RENEWALS:
            told = now
            _LOG.info(
                "%s: held by %s, on another machine, which may be running; it is taken over if its lease stays as it "
                "is for %.0f s: %.0f s left", path.parent, holder, period_s, max(period_s - (now - began), 0),
            )  # fmt: skip
        from naturel_jax.devices import preemption  # it loads JAX, which not all commands need

        preemption.check()
        time.sleep(min(1.0, period_s / 10))
    if not taken:
        raise InUse(path.parent, _read(path)[0] or "another process")
