"""The journal of a folder of photos: one CSV line per checked photo, appended while fetching.

The next run resumes from it, and the builder reads sizes and perceptual hashes from it without opening the photos. So
each line ends with a checksum.
"""

import csv
import dataclasses
import json
from pathlib import Path

import xxhash

from tfds_naturel.common import escape
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import reading_csv
from tfds_naturel.common.photos import MAX_BYTES, MAX_PIXELS, Photo

_COLUMNS = ["image_id", "status", "bytes", "width", "height", "phash", "detail", "xxh3"]  # the last of those before it
_LIMITS = (MAX_BYTES + 1, MAX_PIXELS + 1, MAX_PIXELS + 1, 1 << 64)  # of the numbers of a photo


@dataclasses.dataclass(frozen=True)
class Entry:
    """``status`` is ``ok`` (``photo`` is set), ``missing`` (the server has no such key) or a kind of ``BadPhoto``."""

    image_id: str
    status: str
    photo: Photo | None = None
    detail: str = ""

    def row(self) -> list[str]:
        """The entry as a line of the journal, without its checksum."""
        if self.photo is None:
            return [self.image_id, self.status, "", "", "", "", escape.line(self.detail)[:200]]
        numbers = map(str, (self.photo.bytes, self.photo.width, self.photo.height))
        return [self.image_id, self.status, *numbers, f"{self.photo.phash:016x}", ""]


class Journal:
    """An append-only file; the last line for an image counts. A line truncated by a crash is removed.

    Raises UserError for a file that is not a journal, or is damaged, and for a link: what is appended would go to the
    file that it leads to.
    """

    def __init__(self, path: Path):
        if path.is_symlink():
            raise UserError(f"{path}: a link to {path.readlink()}; expected a file of the folder; copy it there")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.entries = read(path)
        if path.exists():
            with path.open("rb+") as f:
                f.truncate(f.read().rfind(b"\n") + 1)
        is_new = not path.exists() or not path.stat().st_size
        self._file = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        if is_new:
            self._writer.writerow(_COLUMNS)

    def add(self, entry: Entry) -> None:
        """Appends one line and flushes it."""
        self.entries[entry.image_id] = entry
        row = entry.row()
        self._writer.writerow([*row, _checksum(row)])
        self._file.flush()

    def close(self) -> None:
        """Closes the file; ``entries`` can still be read."""
        self._file.close()


def read(path: Path) -> dict[str, Entry]:
    """The entries of a journal by image id; empty if there is no file. Raises UserError if it is not a journal, or if
    a line does not have its checksum."""
    if not path.exists():
        return {}
    with reading_csv(path):
        text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()
    with reading_csv(path):
        head = next(csv.reader(lines[:1]), None)
    is_cut = not lines and ",".join(_COLUMNS).startswith(text)  # by a crash, in its first line
    if not is_cut and head != _COLUMNS:
        first = text.splitlines()[0]
        raise UserError(f"{path}:1: {first!r:.80}; expected the columns {','.join(_COLUMNS)}; move the file away")
    entries = {}
    with reading_csv(path):
        rows = list(csv.reader(lines[1:]))
    for number, row in enumerate(rows, 2):
        try:
            entry = _entry(row)
        except ValueError as error:
            raise UserError(f"{path}:{number}: {row!r}: {error}; delete the line to check that photo again") from error
        entries[entry.image_id] = entry
    return entries


def _entry(row: list[str]) -> Entry:
    """The entry on a line. Raises ValueError."""
    cells = row[:-1]
    if row[-1:] != [_checksum(cells)]:
        raise ValueError("damaged, or edited: its cells do not have their checksum")
    image_id, status, size, width, height, phash, detail = cells
    photo = Photo(int(size), int(width), int(height), int(phash, 16)) if status == "ok" else None
    if photo and not all(0 <= value < most for value, most in zip(dataclasses.astuple(photo), _LIMITS, strict=True)):
        raise ValueError("a number is negative or too large")
    return Entry(image_id, status, photo, detail)


def _checksum(cells: list[str]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(cells).encode())
