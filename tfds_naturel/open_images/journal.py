"""The journal of a folder of photos: one CSV line per checked photo, appended while fetching.

The next run resumes from it, and the builder reads sizes and perceptual hashes from it without opening the photos.
"""

import csv
import dataclasses
from pathlib import Path

from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import reading_csv
from tfds_naturel.common.photos import Photo

_COLUMNS = ["image_id", "status", "bytes", "width", "height", "phash", "detail"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """``status`` is ``ok`` (``photo`` is set), ``missing`` (the server has no such key) or a kind of ``BadPhoto``."""

    image_id: str
    status: str
    photo: Photo | None = None
    detail: str = ""

    def row(self) -> list[str | int]:
        """The entry as a line of the journal."""
        if self.photo is None:
            return [self.image_id, self.status, "", "", "", "", self.detail[:200]]
        photo = self.photo
        return [self.image_id, self.status, photo.bytes, photo.width, photo.height, f"{photo.phash:016x}", ""]


class Journal:
    """An append-only file; the last line for an image counts. A line truncated by a crash is removed.

    Raises UserError for a file that is not a journal.
    """

    def __init__(self, path: Path):
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
        self._writer.writerow(entry.row())
        self._file.flush()

    def close(self) -> None:
        """Closes the file; ``entries`` can still be read."""
        self._file.close()


def read(path: Path) -> dict[str, Entry]:
    """The entries of a journal by image id; empty if there is no file. Raises UserError if it is not a journal."""
    if not path.exists():
        return {}
    with reading_csv(path):
        text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()
    with reading_csv(path):
        head = next(csv.reader(lines[:1]), None)
    if lines and head != _COLUMNS:
        raise UserError(f"{path}:1: {lines[0]!r}; expected the columns {','.join(_COLUMNS)}; move the file away")
    entries = {}
    with reading_csv(path):
        rows = list(csv.reader(lines[1:]))
    for number, row in enumerate(rows, 2):
        try:
            image_id, status, size, width, height, phash, detail = row
            photo = Photo(int(size), int(width), int(height), int(phash, 16)) if status == "ok" else None
            entries[image_id] = Entry(image_id, status, photo, detail)
        except ValueError as error:
            raise UserError(f"{path}:{number}: {row!r}: {error}; delete the line to check that photo again") from error
    return entries
