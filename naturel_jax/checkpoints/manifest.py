"""Checksums of a checkpoint's files: flipped bits are found before anyone trains on them or scores them.

``<step>/manifest.json`` has the size of every file in the checkpoint's items and the XXH3 of each block of it. It is
written before the folder gets its final name, so every checkpoint has a manifest. Files at the top of the
folder are Orbax's records of the save, written later still; nothing that is restored comes from them.

Why XXH3 (64 bits): it hashes as fast as memory is read, in threads. CRC-32C is as fast, but the same for all intact
OCDBT metadata files, since these end in their own CRC-32C; zlib's CRC-32 costs over 10% of a restore.
"""

import json
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

import xxhash
from etils import epath

from naturel_jax import storage
from naturel_jax.storage import blocks
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import check_regular, parse_json

NAME = "manifest.json"
_CHUNK = 1 << 18  # bytes read at a time
_LARGEST = 1 << 30  # bytes of a block


class Damaged(UserError):
    """Files of a checkpoint that are proven to differ from what was saved."""


def write(folder: epath.Path) -> None:
    """Writes the manifest of the files as they are now."""
    sizes = {path: os.stat(path).st_size for path in _files(folder) if path.parent != folder}
    places = [block for path, size in sizes.items() for block in blocks.of_file(path, size)]
    files: dict[str, dict[str, Any]] = {
        str(path.relative_to(folder)): {"size": size, "xxh3": []} for path, size in sizes.items()
    }
    for block, checksum in zip(places, blocks.checksums(places), strict=True):
        files[str(epath.Path(block.path).relative_to(folder))]["xxh3"].append(checksum)
    storage.write(folder / NAME, _to_text({"block": blocks.BLOCK, "files": files}))


def check(folder: epath.Path, items: Collection[str], *, part: int = 0, parts: int = 1) -> None:
    """Compares part ``part`` of ``parts`` of the files of ``items`` with the manifest.

    Raises Damaged for a difference or without a manifest, OSError for a file that cannot be read.
    """
    fields, expected = read(folder), list[tuple[blocks.Block, str]]()
    length = fields["block"]
    if not isinstance(length, int) or length % _CHUNK or not 0 < length <= _LARGEST:
        raise Damaged(f"{folder / NAME} has blocks of {length!r:.40} bytes, expected {blocks.BLOCK:,}")
    for name, file in fields["files"].items():
        if name.partition("/")[0] not in items:
            continue
        path = folder / name
        if not set(name.split("/")).isdisjoint(("", ".", "..")):
            raise Damaged(f"{folder / NAME} names {name!r:.80}, which is not a file of the checkpoint")
        try:
            status = os.stat(path)  # not is_file(), which is False for what cannot be read now, too
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Damaged(f"{path} is missing") from error
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise Damaged(f"{path} is no regular file")
        if size != file["size"]:
            raise Damaged(f"{path} has {size:,} bytes, expected {file['size']:,}")
        if len(file["xxh3"]) != -(-size // length):
            raise Damaged(
                f"{folder / NAME} has {len(file['xxh3'])} checksums of {name!r:.80}, which has {size:,} bytes"
            )
        expected += [(blocks.Block(path, n * length, length), checksum) for n, checksum in enumerate(file["xxh3"])]
    mine = expected[part::parts]
    for (block, checksum), found in zip(mine, blocks.checksums([block for block, _ in mine]), strict=True):
        if found != checksum:
            raise Damaged(f"{block.path} has XXH3 {found} from byte {block.start:,} on, expected {checksum}")


def _files(folder: epath.Path) -> list[epath.Path]:
    """All files in a folder. Raises OSError if it cannot be listed."""

    def refuse(error: OSError) -> NoReturn:
        raise error

    return [epath.Path(path) / name for path, _, names in os.walk(folder, onerror=refuse) for name in sorted(names)]


def _to_text(fields: dict[str, Any]) -> str:
    """JSON that starts with its own checksum."""
    return json.dumps({"xxh3": xxhash.xxh3_64_hexdigest(json.dumps(fields).encode()), **fields})


def read(folder: epath.Path) -> dict[str, Any]:
    """The fields of the manifest in ``folder``. Raises Damaged if it is not as ``write`` left it."""
    try:
        check_regular(Path(folder / NAME))
        content = (folder / NAME).read_bytes()
    except FileNotFoundError as error:
        raise Damaged(f"{folder / NAME} is missing") from error
    try:
        fields = parse_json(content)
        del fields["xxh3"]
        intact = _to_text(fields).encode() == content
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise Damaged(f"{folder / NAME} does not match its own XXH3")
    return fields
