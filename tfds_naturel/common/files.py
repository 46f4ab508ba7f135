"""Checks on the user's local files, and how many may be open."""

import ast
import contextlib
import csv
import glob
import hashlib
import io
import json
import os
import resource
import shutil
import socket
import stat
import tempfile
import tokenize
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from tfds_naturel.common import escape
from tfds_naturel.common.errors import Stopped, UserError


def md5_of(path: Path) -> str:
    """MD5 of a file's bytes, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def version_of(*paths: os.PathLike[str]) -> str:
    """Identifies files as they are now by their sizes and modification times, which change when one is replaced."""
    found = [(status.st_size, status.st_mtime_ns) for status in map(os.stat, paths)]
    return hashlib.blake2b(repr(found).encode(), digest_size=8).hexdigest()


LONGEST_TEXT = 100_000  # characters of a caption, of which a tokenizer takes about 200 bytes for each


def parse_json(text: str | bytes, **options: Any) -> Any:
    """``json.loads``, which raises a RecursionError, not a ValueError, for values nested deeper than Python's stack."""
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The ``object_pairs_hook`` of JSON in which a key that appears twice is a ValueError: which one was meant is not
    known."""
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError(f"key {Counter(key for key, _ in pairs).most_common(1)[0][0]!r:.80} appears twice")
    return found


def python_strings(text: str) -> list[str] | None:
    """The strings of a list in Python's syntax, or of a set, sorted, since it has no order of its own. None for all
    else, such as two strings without a comma between them, as numpy prints arrays, which Python reads as one."""
    try:
        parsed = ast.parse(text.lstrip(" \t"), mode="eval").body
        if not isinstance(parsed, ast.List | ast.Set):
            return None
        found = [ast.literal_eval(each) for each in parsed.elts]
        literals = sum(token.type == tokenize.STRING for token in tokenize.generate_tokens(io.StringIO(text).readline))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    if literals != len(found) or not all(isinstance(each, str) for each in found):
        return None
    return sorted(set(found)) if isinstance(parsed, ast.Set) else found


def is_unicode(value: Any) -> bool:
    """Whether all strings can be encoded: JSON may hold half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def load_json(place: object, content: str | bytes, fix: str = "download it again") -> Any:
    """``parse_json``, which raises a UserError that names ``place`` and the ``fix``."""
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(f"{place}: not JSON ({error}); {fix}") from error


@contextlib.contextmanager
def reading_csv(path: object) -> Iterator[None]:
    """Turns errors of the csv module and of decoding into a UserError that names ``path``, and refuses one that is no
    regular file."""
    if isinstance(path, Path):
        check_regular(path)
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}: not a readable table ({error})") from error


def read_tsv(path: Path) -> list[dict[str, str]]:
    """The rows of one of our own tables: tab-separated, under a line of column names, without quoting. Raises UserError
    for a file that is no such table, and a row without some of them or with more."""
    with reading_csv(path), path.open(encoding="utf-8", newline="") as f:
        return list(dict_rows(f, full=True, delimiter="\t", quoting=csv.QUOTE_NONE)[1])


def header(rows: Iterator[list[str]]) -> list[str]:
    """The first of ``rows``, the names of a table's columns; [] without rows. Raises csv.Error if two are the same."""
    names = next(rows, [])
    if twice := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
        raise csv.Error(f"two columns are called {twice[0]!r:.80}; rename one")
    return names


def dict_rows(file: Iterable[str], *, full: bool = False, **dialect: Any) -> tuple[list[str], Iterator[dict[str, str]]]:
    """Column names of a CSV file, and its rows as ``csv.DictReader`` gives them, but without the fields that a row
    lacks: many short rows under a long line of names would fill the memory. Raises csv.Error at a row with more cells
    than names, as where a comma without quotes cuts a caption, if rows have to be ``full``, at one with fewer, and at
    one that ``holds_rows``."""
    reader = csv.reader(file, **dialect)
    names = header(reader)

    def rows() -> Iterator[dict[str, str]]:
        last = reader.line_num
        for row in reader:
            if len(row) > len(names) or (full and 0 < len(row) < len(names)):
                raise csv.Error(f"line {reader.line_num} has {len(row)} cells; the header has {len(names)}")
            if reader.line_num > last + 1 and holds_rows(row, len(names), reader.dialect.delimiter):
                raise csv.Error(swallowed(last + 1, reader.line_num))
            last = reader.line_num
            if row:
                yield dict(zip(names, row, strict=False))

    return names, rows()


def holds_rows(row: Sequence[str], columns: int, delimiter: str) -> bool:
    """Whether a cell has rows that follow in it: a quote of its text, such as one that a caption begins with, was taken
    for one around it. Its first line then has the rest of a row, its last the beginning of one, and one between them a
    whole row. Captions have no tabs."""
    for n, cell in enumerate(row):
        cells = [line.count(delimiter) + 1 for line in cell.splitlines() if line.strip()]
        is_cut = len(cells) > 1 and (cells[0], cells[-1]) == (columns - n, n + 1)
        if is_cut and (len(cells) == 2 or columns in cells[1:-1]):
            return True
        if delimiter == "\t" and len(cells) > 1 and max(cells) > 1:
            return True
    return False


def swallowed(first: int, last: int) -> str:
    """What is wrong with a record that ``holds_rows``."""
    return (
        f"lines {first} to {last} are one record, since a cell begins with a quote: put that cell in quotes and double "
        "those in it; a caption itself is one line"
    )


def separator(file: TextIO) -> str:
    """What is between the cells of a CSV file, at whose start it is left: tabs if its first line has any, else
    whichever of commas and semicolons it has more of."""
    header = file.readline()
    file.seek(0)
    return "\t" if "\t" in header else max(",;", key=header.count)


@contextlib.contextmanager
def reading_arrow(path: object, fix: str) -> Iterator[None]:
    """Turns pyarrow's errors for a damaged file, among them OSErrors without a number, into a UserError that names
    ``path``; OSErrors of the system pass."""
    import pyarrow as pa  # slow to import, and most commands do not need it

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:  # of dates that Python has not
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = escape.line(str(error))
        raise UserError(f"{path}: not a readable Arrow or Parquet file ({reason}); {fix}") from error


@contextlib.contextmanager
def reading_tokenizer(name: object) -> Iterator[None]:
    """Turns whatever the libraries raise for an unusable tokenizer into a UserError with ``name``: any Exception, and
    PanicException, which does not derive from it."""
    try:
        yield
    except (UserError, Stopped, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise UserError(f"{name}: not a tokenizer ({error})") from error


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip archive. Raises UserError for a pipe or device, and zipfile.BadZipFile for a member that is neither stored
    nor deflated: Python unpacks others whole, whatever size the archive states."""
    check_regular(path)
    archive = zipfile.ZipFile(path)
    for member in archive.infolist():
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile(f"{member.filename!r:.80} is packed by another method than deflate")
    return archive


def unzip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member, of which no more is unpacked than the size that the archive states; ``archive.read`` unpacks all."""
    with archive.open(member) as file:
        return file.read(member.file_size)


def allow_open_files(more: int) -> None:
    """Raises this process's limit on open files, mapped ones included, by ``more``, as far as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + more
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder, already with the final name, that is moved to ``folder`` at the end, and removed if something
    fails. Removes what killed processes of this kernel have left, too: the system has released their locks."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    kernel = boot.read_text().strip() if boot.exists() else socket.gethostname()
    prefix = f"incomplete.{folder.name}.{kernel}."
    for left in folder.parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(Timeout, OSError), FileLock(left / "lock", blocking=False):
            shutil.rmtree(left)
    folder.parent.mkdir(parents=True, exist_ok=True)
    parent, lock = _locked_folder(prefix, folder.parent)
    work = parent / folder.name
    work.mkdir()
    try:
        yield work
        work.rename(folder)
    finally:
        shutil.rmtree(parent, ignore_errors=True)
        lock.release()


def _locked_folder(prefix: str, where: Path) -> tuple[Path, FileLock]:
    """A new folder and the lock in it, which this process holds. Raises OSError if the file system has no locks."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=where))
        lock = FileLock(folder / "lock")
        try:
            lock.acquire()
        except OSError:
            if folder.exists():
                shutil.rmtree(folder, ignore_errors=True)
                raise
        if (folder / "lock").exists():  # no other process took the folder for a leftover before it was locked
            return folder, lock


def check_regular(path: Path) -> None:
    """Raises UserError for a pipe or device, which would be read without end. Raises OSError if there is no file."""
    if stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):  # reading a folder fails by itself
        raise UserError(f"{path}: not a regular file; remove it, or copy the folder again")


def read_regular(path: Path) -> bytes:
    """The bytes of a file. Raises what ``check_regular`` raises."""
    check_regular(path)
    return path.read_bytes()


def unlinked(path: Path) -> Path:
    """``path``, without the link that may have come there with a folder from elsewhere: what is written would go to the
    file that it leads to."""
    if path.is_symlink():
        path.unlink()
    return path


def check_size(path: Path, largest: int) -> None:
    """Raises UserError for a file of more than ``largest`` bytes, which would fill the memory, or a pipe or device."""
    check_regular(path)
    if (size := path.stat().st_size) > largest:
        raise UserError(f"{path}: {size:,} bytes; expected at most {largest:,}: is it another file?")


def inside(folder: Path, relative: str) -> Path:
    """``folder / relative``, resolved. Raises UserError if it is outside ``folder``, through ``..`` or a symlink."""
    try:
        path = (folder / relative).resolve()
    except ValueError as error:  # it has a null character
        raise UserError(f"{folder}: {relative!r:.80} is not a path ({error})") from error
    if not path.is_relative_to(folder.resolve()):
        raise UserError(f"{folder / relative}: is outside {folder}; copy the file into the folder")
    return path
