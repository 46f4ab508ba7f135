"""Half of Winoground's items, for training: both images of an item, each with the other's caption as a negative."""

import functools
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tfds_naturel.common import photos
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import is_unicode, load_json, open_zip, reading_csv, unzip
from tfds_naturel.open_images.splits import uniform
from tfds_naturel.sources.examples import CaptionedImage, Group, Negative, RecipeSource

_SHARE = 0.5
_FIELDS = {"id", "image_0", "image_1", "caption_0", "caption_1"}


def read(folder: Path) -> Iterator[CaptionedImage]:
    """The images of the items in the training half. Raises UserError for files that are not as published."""
    places = (folder / "images.zip", folder / "data" / "images.zip")  # the second is the hub's
    archive = next(filter(Path.exists, places), places[0])
    try:
        images = open_zip(archive)
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive}: not a zip file ({error}); download it again") from error
    with images:
        members = _members(images)
        for item in _items(folder):
            facts = [f"winoground:{item['id']}:{k}" for k in range(2)]
            for k in range(2):
                member = members.get(item[f"image_{k}"])
                if member is None or member.file_size > photos.MAX_BYTES:
                    raise UserError(
                        f"{archive}: no image {item[f'image_{k}']!r} of at most {photos.MAX_BYTES:,} bytes, or several "
                        f"that differ, which item {item['id']} needs; download it again"
                    )
                negative = Negative(item[f"caption_{1 - k}"], "winoground", facts[1 - k])
                groups = [Group(item[f"caption_{k}"], facts[k], [negative])]
                yield CaptionedImage(f"{item['id']}-{k}", functools.partial(_read, archive, images, member), "", groups)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo | None]:
    """The images of the archive by their names without folder and suffix; None where several differ."""
    members: dict[str, zipfile.ZipInfo | None] = {}
    for info in archive.infolist():
        if not info.is_dir() and not info.filename.startswith("__MACOSX/"):
            name = PurePosixPath(info.filename).stem
            first = members.setdefault(name, info)
            members[name] = first if first and first.CRC == info.CRC else None
    return members


def _read(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        return unzip(archive, member)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}, member {member.filename!r:.80}: {error}; download it again") from error


def _is_text(field: tuple[str, Any]) -> bool:
    """Whether the value of a field that is read is text; ids are numbers, too."""
    name, value = field
    return (
        name not in _FIELDS or (isinstance(value, str) and is_unicode(value)) or (name == "id" and type(value) is int)
    )


def _items(folder: Path) -> Iterator[dict[str, Any]]:
    """Half of the items in ``data/examples.jsonl``, chosen by their ids alone, so it is always the same half."""
    path = folder / "data" / "examples.jsonl"
    with reading_csv(path):  # decoding
        lines = path.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        item = load_json(f"{path}:{number}", line)
        if not isinstance(item, dict) or not item.keys() >= _FIELDS or not all(map(_is_text, item.items())):
            raise UserError(f"{path}:{number}: {line[:80]!r}; expected an object with {', '.join(sorted(_FIELDS))}")
        if uniform(0, str(item["id"])) < _SHARE:
            yield item


SOURCE = RecipeSource(
    "winoground_part",
    "Half of Winoground's items, for training; the other half is left for evaluation.",
    folder="winoground",
    read=read,
    used=lambda folder: (str(item["id"]) for item in _items(folder)),
)
