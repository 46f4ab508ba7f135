"""Open Images' official annotation files: URLs, sizes, checksums, and the files of each release."""

import dataclasses
from pathlib import Path

from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import md5_of, read_tsv

IMAGES_URL = "https://open-images-dataset.s3.amazonaws.com"
ANNOTATIONS_URL = "https://storage.googleapis.com/openimages"
PHOTO_BYTES = 300e3  # mean; the longest side of photos is 1024 pixels


@dataclasses.dataclass(frozen=True)
class OfficialFile:
    """A file as Google publishes it: path below ``ANNOTATIONS_URL``, size in bytes and MD5."""

    path: str
    bytes: int
    md5: str

    @property
    def name(self) -> str:
        """The name of the file in the user's folder."""
        return self.path.rpartition("/")[2]

    @property
    def url(self) -> str:
        """The URL at which Google publishes it."""
        return f"{ANNOTATIONS_URL}/{self.path}"


@dataclasses.dataclass(frozen=True)
class Release:
    """The files of one version of the visual relationships, for the images in the bucket's ``train`` folder."""

    rows: OfficialFile
    classes: OfficialFile
    attributes: OfficialFile
    relations: OfficialFile
    images: OfficialFile
    boxes: OfficialFile

    @property
    def files(self) -> tuple[OfficialFile, ...]:
        """All files of the release."""
        return (self.rows, self.classes, self.attributes, self.relations, self.images, self.boxes)


def _releases() -> dict[str, Release]:
    files: dict[str, dict[str, OfficialFile]] = {}
    for row in read_tsv(Path(__file__).with_name("releases.tsv")):
        files.setdefault(row["release"], {})[row["file"]] = OfficialFile(row["path"], int(row["bytes"]), row["md5"])
    return {name: Release(**of_release) for name, of_release in files.items()}


RELEASES = _releases()


def locate(release: Release, folder: Path, *, official: bool) -> dict[str, str]:
    """Checks that ``folder`` contains every file of ``release``; returns their MD5 by file name.

    With ``official``, a file whose size or MD5 is not the published one is refused; without it, a file may be a subset
    of the official one or the user's own. Raises UserError.
    """
    md5s = {}
    for file in release.files:
        path = folder / file.name
        if not path.is_file():
            raise UserError(
                f"{path}: not found; expected {file.url} ({file.bytes:,} bytes), which "
                f"`python -m tfds_naturel.open_images.fetch --out DIR --annotations {folder}` downloads"
            )
        md5s[file.name] = md5 = md5_of(path)
        if official and md5 != file.md5:
            raise UserError(
                f"{path}: {path.stat().st_size:,} bytes with md5 {md5}, but the official file has {file.bytes:,} bytes "
                f"with md5 {file.md5}; delete it and run `python -m tfds_naturel.open_images.fetch`, or build with "
                "--unofficial to use your own file"
            )
    return md5s
