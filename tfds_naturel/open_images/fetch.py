"""Fetches Open Images for the builder: the annotation files, then only the photos with annotated relationships.

    naturel-data-fetch --split train --out DIR

downloads ``DIR/annotations`` and ``DIR/images/train/<ImageID>.jpg`` from Google's and AWS's public servers (about
1.9 GB of annotations and 30 GB of photos; the size is logged before the download starts). Run it again to continue
after an interruption; photos that are already in the folder are checked and kept, and those that cannot be used are set
aside as ``<ImageID>.rejected``. ``--limit N`` takes the first N images only, in the order of their ids, which is a
random one (0: annotations only).
"""

import argparse
import asyncio
import collections
import contextlib
import functools
import itertools
import logging
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import aiohttp

from tfds_naturel.common import cli, download, photos
from tfds_naturel.common.download import MissingKey, Policy, TooLarge, Transient
from tfds_naturel.common.errors import Stopped, UserError
from tfds_naturel.common.files import check_regular, md5_of, unlinked
from tfds_naturel.common.photos import BadPhoto
from tfds_naturel.common.progress import Progress
from tfds_naturel.open_images.annotations import Rejects, Vocabulary, read_rows
from tfds_naturel.open_images.journal import Entry, Journal
from tfds_naturel.open_images.releases import ANNOTATIONS_URL, IMAGES_URL, PHOTO_BYTES, RELEASES, Release

_LOG = logging.getLogger("tfds_naturel.open_images.fetch")  # this module runs as __main__

MAX_CONSECUTIVE_FAILURES = 100  # photos that failed all attempts, in a row; the server is then taken to be down
MAX_CONSECUTIVE_REFUSALS = 50  # missing or unusable photos in a row; this may then not be the right server

_FAILED = "failed"  # not recorded in the journal, so the next run tries again
_RETRIED_KINDS = frozenset({"not_jpeg", "broken"})  # may be caused by a bad connection or a captive portal


def annotated_ids(annotations: Path, release: Release) -> list[str]:
    """The sorted ids of the images with at least one valid relationship row."""
    vocabulary = Vocabulary.read(annotations, release)
    with tempfile.TemporaryDirectory() as folder:
        rejects = Rejects(Path(folder) / "rejects.csv")
        with contextlib.closing(rejects):
            image_ids = {row.image_id for row in read_rows(annotations / release.rows.name, vocabulary, rejects)}
    if rejects.counts:
        _LOG.info("skipping %s malformed rows; the build lists them", f"{rejects.counts.total():,}")
    return sorted(image_ids)


class Store:
    """The photos on disk and their journal. A photo is written under a temporary name, then renamed."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("*.part"):
            leftover.unlink()
        self.folder = folder
        self.journal = Journal(folder / "journal.csv")

    def path(self, image_id: str) -> Path:
        """The photo's file."""
        return self.folder / f"{image_id}.jpg"

    def missing(self, image_ids: Iterable[str], retry_missing: bool) -> list[str]:
        """The ids that still have to be fetched. Photos on disk without a journal line are checked here: added to
        it, or set aside as ``<id>.rejected`` if they are not usable. Raises UserError for a pipe or device."""
        missing = []
        for image_id in image_ids:
            entry = self.journal.entries.get(image_id)
            path = self.path(image_id)
            size = path.stat().st_size if path.exists() else None
            if size is not None and (entry is None or entry.photo is None or entry.photo.bytes != size):
                try:
                    entry = Entry(image_id, "ok", photos.inspect_file(path))
                    self.journal.add(entry)
                except BadPhoto as error:
                    names = (path.with_suffix(f".{n or ''}rejected") for n in itertools.count())
                    aside = next(name for name in names if not name.exists())
                    _LOG.warning("%s: set aside as %s: %s", path, aside.name, error)
                    path.rename(aside)
                    entry = None
            is_refused = entry is not None and entry.photo is None and not retry_missing
            if not is_refused and (size is None or entry is None):
                missing.append(image_id)
        return missing

    def known(self) -> Entry | None:
        """The last photo in the journal, which a server had in this or an earlier run; None if there is none."""
        return next((entry for entry in reversed(self.journal.entries.values()) if entry.photo), None)

    def put(self, image_id: str, data: bytes) -> Entry:
        """Checks and stores a photo. Raises BadPhoto without storing anything."""
        entry = Entry(image_id, "ok", photos.inspect(data))
        part = unlinked(self.path(image_id).with_suffix(".part"))
        part.write_bytes(data)
        part.replace(self.path(image_id))
        return entry


async def fetch_annotations(
    client: aiohttp.ClientSession, release: Release, folder: Path, url: str, policy: Policy
) -> None:
    """Downloads the release's files that are missing in ``folder`` from below ``url``; logs the size of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in release.files:
        target, source = folder / file.name, f"{url}/{file.path}"
        if not target.exists():
            _LOG.info("%s -> %s (%s bytes)", source, target, f"{file.bytes:,}")
            await download.get_file(client, source, target, size=file.bytes, md5=file.md5, policy=policy)
            continue
        check_regular(target)
        if target.stat().st_size != file.bytes or md5_of(target) != file.md5:
            _LOG.info("%s: differs from the official file; kept", target)


async def fetch_photos(
    client: aiohttp.ClientSession, store: Store, image_ids: list[str], url: str, policy: Policy, concurrency: int
) -> collections.Counter[str]:
    """Fetches ``url/<id>.jpg`` for every id, at most ``concurrency`` at a time. Returns counts by status.

    Raises Transient when ``MAX_CONSECUTIVE_FAILURES`` photos in a row failed all their attempts, and UserError for a
    server that refuses photos and serves none (see ``Recorder``).
    """
    recorder = Recorder(store, lambda entry: _serves(client, entry, url, policy))
    counts: collections.Counter[str] = collections.Counter()
    queue, consecutive_failures = iter(image_ids), 0
    with Progress(total=len(image_ids), unit="photo", desc=store.folder.name) as progress:

        async def work() -> None:
            nonlocal consecutive_failures
            for image_id in queue:
                entry = await _fetch_photo(client, store, image_id, url, policy)
                if entry.status == _FAILED:
                    consecutive_failures += 1
                    if consecutive_failures >= MAX_CONSECUTIVE_FAILURES:
                        raise Transient(f"{consecutive_failures} photos in a row failed; last error: {entry.detail}")
                else:
                    consecutive_failures = 0
                    await recorder.add(entry)
                counts[entry.status] += 1
                progress.set_postfix_str(f"{counts.total() - counts['ok']} failed", refresh=False)
                progress.update()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        await recorder.finish()
    return counts


class Recorder:
    """Writes the journal of a fetch, without trusting a server that serves nothing.

    A wrong URL, a proxy or a sign-in page refuses every photo. So a photo is recorded as missing or unusable only once
    the same server serves another one: the next one, or, after ``MAX_CONSECUTIVE_REFUSALS`` in a row and at the end,
    one that is known to exist (``serves(entry)``). Otherwise UserError is raised and nothing is recorded.
    """

    def __init__(self, store: Store, serves: Callable[[Entry], Awaitable[bool]]):
        self._store, self._serves = store, serves
        self._refused: list[Entry] = []

    async def add(self, entry: Entry) -> None:
        """Records a photo, or keeps a refusal until the server is known to serve others."""
        if entry.photo is None:
            self._refused.append(entry)
            if len(self._refused) % MAX_CONSECUTIVE_REFUSALS == 0:
                await self.finish()
        else:
            self._store.journal.add(entry)
            self._record_refused()

    async def finish(self) -> None:
        """Records the refusals that are left."""
        if not self._refused:
            return
        known, last = self._store.known(), self._refused[-1]
        is_trusted = known is not None and await self._serves(known)
        if self._refused and not is_trusted:  # empty if a photo was served meanwhile
            proof = f"does not send {known.image_id} either, although it exists" if known else "has sent none"
            raise UserError(
                f"{len(self._refused)} photos in a row were refused (the last: {last.detail}); the server {proof}; "
                "none is recorded as missing; check --images_url, and whether a proxy answers for the server"
            )
        self._record_refused()

    def _record_refused(self) -> None:
        for entry in self._refused:
            self._store.journal.add(entry)
        self._refused.clear()


async def _serves(client: aiohttp.ClientSession, entry: Entry, url: str, policy: Policy) -> bool:
    """Whether the server sends the photo that ``entry`` describes."""
    photo = entry.photo
    assert photo is not None
    try:
        attempt = functools.partial(download.get_bytes, client, f"{url}/{entry.image_id}.jpg", photo.bytes)
        return len(await download.retried(attempt, policy)) == photo.bytes
    except (MissingKey, TooLarge, Transient):
        return False


async def _fetch_photo(client: aiohttp.ClientSession, store: Store, image_id: str, url: str, policy: Policy) -> Entry:
    async def attempt() -> Entry:
        data = await download.get_bytes(client, f"{url}/{image_id}.jpg", photos.MAX_BYTES)
        try:
            return await asyncio.to_thread(store.put, image_id, data)
        except BadPhoto as error:
            if error.kind in _RETRIED_KINDS:
                raise Transient(str(error)) from error
            raise

    try:
        return await download.retried(attempt, policy)
    except MissingKey as error:
        return Entry(image_id, "missing", detail=str(error))
    except TooLarge as error:
        return Entry(image_id, "too_large", detail=str(error))
    except BadPhoto as error:
        return Entry(image_id, error.kind, detail=str(error))
    except Transient as error:
        return Entry(image_id, _FAILED, detail=str(error))


async def run(options: argparse.Namespace) -> collections.Counter[str]:
    """Fetches what the options request; returns counts by status. Raises what the functions above raise."""
    release, policy = RELEASES[options.release], Policy(attempts=options.attempts, stall=options.stall)
    annotations = options.annotations or options.out / "annotations"
    url = f"{options.images_url}/{options.split}"
    store = Store(options.out / "images" / options.split)
    with contextlib.closing(store.journal):
        async with download.session(policy, options.concurrency) as client:
            await fetch_annotations(client, release, annotations, options.annotations_url, policy)
            image_ids = annotated_ids(annotations, release)[: options.limit]
            missing = store.missing(image_ids, options.retry_missing)
            done = len(image_ids) - len(missing)
            _LOG.info("%s annotated images, %s already fetched", f"{len(image_ids):,}", f"{done:,}")
            total, free = len(missing) * PHOTO_BYTES, shutil.disk_usage(store.folder).free
            size, space = f"{total / 1e9:,.2f} GB", f"{free / 1e9:,.1f} GB"
            _LOG.info("%s photos, about %s, to %s (%s free)", f"{len(missing):,}", size, store.folder, space)
            if total > free:
                raise UserError(f"{store.folder}: {space} free, about {size} needed; choose another --out")
            return await fetch_photos(client, store, missing, url, policy, options.concurrency)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="naturel-data-fetch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=cli.on_disk, required=True, help="output folder for annotations/ and images/")
    parser.add_argument(
        "--split", choices=["train"], default="train", help="folder of the bucket (annotations are for train)"
    )
    parser.add_argument("--release", choices=RELEASES, default="v4")
    parser.add_argument(
        "--annotations", type=cli.on_disk, help="folder of annotation files; missing ones are downloaded"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N annotated images, by id; 0: none")
    parser.add_argument("--retry_missing", action="store_true", help="retry photos recorded as missing or bad")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--attempts", type=int, default=Policy.attempts, help="attempts per file")
    parser.add_argument(
        "--stall", type=float, default=Policy.stall, help="seconds without data after which an attempt fails"
    )
    parser.add_argument("--images_url", default=IMAGES_URL, help="URL of the bucket or a mirror")
    parser.add_argument("--annotations_url", default=ANNOTATIONS_URL, help="URL of the annotations or a mirror")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command line. Raises Stopped if some photos are left for another run."""
    options = _options(arguments)
    for flag in ("concurrency", "attempts", "stall"):
        if getattr(options, flag) <= 0:
            raise UserError(f"--{flag} {getattr(options, flag)}: expected a positive number")
    if options.limit is not None and options.limit < 0:
        raise UserError(f"--limit {options.limit}: expected 0 or more")
    try:
        counts = asyncio.run(run(options))
    except Transient as error:
        raise Stopped(f"{error}; run the same command again to continue") from error
    except (MissingKey, aiohttp.ClientError) as error:
        raise UserError(f"{error}; check --annotations_url and --images_url") from error
    print(", ".join(f"{status} {count:,}" for status, count in sorted(counts.items())) or "nothing to do")
    if counts[_FAILED]:
        raise Stopped(f"{counts[_FAILED]:,} photos failed; run the same command again to fetch them")


if __name__ == "__main__":
    cli.run(main)
