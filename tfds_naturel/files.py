"""Checks on the user's local files."""

import hashlib
from pathlib import Path

from tfds_naturel.errors import UserError


def md5_of(path: Path) -> str:
    """MD5 of a file's bytes, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "md5").hexdigest()


def inside(folder: Path, relative: str) -> Path:
    """``folder / relative``, resolved. Raises UserError if it is outside ``folder``, through ``..`` or a symlink."""
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UserError(f"{folder / relative}: is outside {folder}; copy the file into the folder")
    return path
