"""Fetches Open Images for the builder: the annotation files, then only the photos that have annotated relationships.

    python -m tfds_naturel.fetch --split train --out DIR

fills ``DIR/annotations`` and ``DIR/images/train/<ImageID>.jpg`` from Google's and AWS's public servers (about 680 MB of
annotations, and some 30 GB of photos: the size is told before the download starts). Run it again to go on after an
interruption. ``--from-tar`` takes the photos from the published tar files instead.
"""

import argparse
import asyncio
import collections
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import aiohttp
import tqdm

from tfds_naturel import download, photos
from tfds_naturel.download import MissingKey, Policy, Transient
from tfds_naturel.journal import Entry, Journal
from tfds_naturel.open_images import IMAGE_ID, Rejects, Vocabulary, read_rows
from tfds_naturel.photos import BadPhoto
from tfds_naturel.releases import ANNOTATIONS_URL, IMAGES_URL, RELEASES, Release, md5_of

_SIZE_SAMPLE = 64  # photos whose sizes are asked for to estimate the total
_FAILED = "failed"  # not journaled: the next run tries again
_HOPELESS = 100  # photos failing in a row, each after all its tries
_IN_TRANSIT = frozenset({"not_jpeg", "broken"})  # what a bad connection or a captive portal makes of a good photo


def annotated_ids(annotations: Path, release: Release) -> list[str]:
    """The ids of the images that have a valid relationship row, sorted."""
    vocabulary = Vocabulary.read(annotations, release)
    with tempfile.TemporaryDirectory() as folder:
        rejects = Rejects(Path(folder) / "rejects.csv")
        image_ids = {row.image_id for row in read_rows(annotations / release.rows.name, vocabulary, rejects)}
    if rejects.counts:
        print(f"{rejects.counts.total():,} malformed rows are left out; the build lists them", flush=True)
    return sorted(image_ids)


class Store:
    """The photos on disk and their journal; a photo is written under a temporary name, then renamed."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("*.part"):
            leftover.unlink()
        self.folder = folder
        self.journal = Journal(folder / "journal.csv")

    def path(self, image_id: str) -> Path:
        return self.folder / f"{image_id}.jpg"

    def wanting(self, image_ids: Iterable[str], retry_missing: bool) -> list[str]:
        """The ids that still have to be fetched; photos on disk that no journal line describes are checked here."""
        kept = []
        for image_id in image_ids:
            entry = self.journal.entries.get(image_id)
            path = self.path(image_id)
            size = path.stat().st_size if path.exists() else None
            if size is not None and (entry is None or entry.photo is None or entry.photo.bytes != size):
                entry = self.adopt(image_id, path)
            is_refused = entry is not None and entry.photo is None and not retry_missing
            if not is_refused and (size is None or entry is None):
                kept.append(image_id)
        return kept

    def adopt(self, image_id: str, path: Path) -> Entry | None:
        """Journals a photo that is already on disk; a broken one is removed, to be fetched again (None)."""
        try:
            entry = Entry(image_id, "ok", photos.inspect(path.read_bytes()))
        except BadPhoto:
            path.unlink()
            return None
        self.journal.add(entry)
        return entry

    def put(self, image_id: str, data: bytes) -> Entry:
        """Checks and stores a photo. Raises BadPhoto, and then stores nothing."""
        entry = Entry(image_id, "ok", photos.inspect(data))
        part = self.path(image_id).with_suffix(".part")
        part.write_bytes(data)
        part.replace(self.path(image_id))
        return entry


async def fetch_annotations(
    client: aiohttp.ClientSession, release: Release, folder: Path, url: str, policy: Policy
) -> None:
    """Downloads what ``folder`` lacks of the release's files from below ``url``, after saying what and how large."""
    folder.mkdir(parents=True, exist_ok=True)
    lacking = [file for file in release.files if not (folder / file.name).exists()]
    for file in lacking:
        print(f"{url}/{file.path} -> {folder / file.name} ({file.bytes:,} bytes)", flush=True)
    for file in lacking:
        await download.get_file(client, file, f"{url}/{file.path}", folder / file.name, policy)
    for file in release.files:
        if file not in lacking and md5_of(folder / file.name) != file.md5:
            print(f"{folder / file.name}: yours, not the official file; kept", flush=True)


async def announce(client: aiohttp.ClientSession, urls: list[str], folder: Path, policy: Policy) -> None:
    """Prints how much will come, estimated from evenly spaced photos. Raises SystemExit when the disk is too small."""
    sample = urls[:: max(1, len(urls) // _SIZE_SAMPLE)]
    sizes = [await download.retried(lambda u=url: download.size_of(client, u), policy) for url in sample]
    total = int(sum(size or 0 for size in sizes) / max(1, len(sample)) * len(urls))
    free = shutil.disk_usage(folder).free
    print(f"{len(urls):,} photos, about {total / 1e9:,.2f} GB, to {folder} ({free / 1e9:,.1f} GB free)", flush=True)
    if total > free:
        raise SystemExit(f"{folder}: {free / 1e9:,.1f} GB are free, about {total / 1e9:,.1f} GB are needed")


async def fetch_photos(
    client: aiohttp.ClientSession, store: Store, image_ids: list[str], url: str, policy: Policy, concurrency: int
) -> collections.Counter[str]:
    """Fetches ``url/<id>.jpg`` of every id; at most ``concurrency`` at a time. Returns counts by status.

    Raises Transient when ``_HOPELESS`` photos in a row failed after all their tries: the network or server is down.
    """
    counts: collections.Counter[str] = collections.Counter()
    queue, in_a_row = iter(image_ids), 0
    with _Progress(len(image_ids), store.folder.name) as progress:

        async def work() -> None:
            nonlocal in_a_row
            for image_id in queue:
                entry = await _fetch_photo(client, store, image_id, url, policy)
                if entry.status == _FAILED:
                    in_a_row += 1
                    if in_a_row >= _HOPELESS:
                        raise Transient(f"{in_a_row} photos in a row failed, the last with {entry.detail}")
                else:
                    in_a_row = 0
                    store.journal.add(entry)
                counts[entry.status] += 1
                progress.add(entry)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
    return counts


async def _fetch_photo(client: aiohttp.ClientSession, store: Store, image_id: str, url: str, policy: Policy) -> Entry:
    async def attempt() -> Entry:
        data = await download.get_bytes(client, f"{url}/{image_id}.jpg")
        try:
            return await asyncio.to_thread(store.put, image_id, data)
        except BadPhoto as error:
            if error.kind in _IN_TRANSIT:
                raise Transient(str(error)) from error
            raise

    try:
        return await download.retried(attempt, policy)
    except MissingKey as error:
        return Entry(image_id, "missing", detail=str(error))
    except BadPhoto as error:
        return Entry(image_id, error.kind, detail=str(error))
    except Transient as error:
        return Entry(image_id, _FAILED, detail=str(error))


class _Progress(tqdm.tqdm):
    """A bar over photos with ETA, MB/s, and how many could not be had."""

    def __init__(self, total: int, name: str):
        super().__init__(total=total, unit="photo", desc=name)
        self._bytes = self._refused = 0

    def add(self, entry: Entry) -> None:
        self._bytes += entry.photo.bytes if entry.photo else 0
        self._refused += entry.photo is None
        speed = self._bytes / 1e6 / max(self.format_dict["elapsed"], 1e-9)
        self.set_postfix_str(f"{speed:.1f} MB/s, {self._refused} not had", refresh=False)
        self.update()


def from_tars(store: Store, tars: list[Path], image_ids: list[str]) -> collections.Counter[str]:
    """Takes the wanted photos out of (compressed) tar files, streaming; names with folders, links and others are
    ignored.

    A photo that is in none of the tars is left for a later run and counted as ``absent``.
    """
    wanted, counts = set(image_ids), collections.Counter()
    for tar in tars:
        size = tar.stat().st_size
        with (
            tqdm.tqdm(total=size, unit="B", unit_scale=True, desc=tar.name) as progress,
            tar.open("rb") as raw,
            tarfile.open(fileobj=raw, mode="r|*") as archive,
        ):
            for member, image_id in _photos(archive):
                progress.update(raw.tell() - progress.n)
                if image_id in wanted:
                    wanted.remove(image_id)
                    entry = _from_tar(store, archive, member, image_id)
                    store.journal.add(entry)
                    counts[entry.status] += 1
    counts["absent"] = len(wanted)
    return counts


def _photos(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str]]:
    for member in archive:
        stem, dot, suffix = member.name.rpartition("/")[2].partition(".")
        if member.isreg() and IMAGE_ID.fullmatch(stem) and dot + suffix == ".jpg":
            yield member, stem


def _from_tar(store: Store, archive: tarfile.TarFile, member: tarfile.TarInfo, image_id: str) -> Entry:
    try:
        if member.size > photos.MAX_BYTES:
            raise BadPhoto("too_large", f"{member.size:,} bytes in the tar file")
        return store.put(image_id, archive.extractfile(member).read())
    except BadPhoto as error:
        return Entry(image_id, error.kind, detail=str(error))


async def run(options: argparse.Namespace) -> collections.Counter[str]:
    """What the command line asks for; returns counts by status."""
    release, policy = RELEASES[options.release], Policy(attempts=options.attempts, stall=options.stall)
    annotations = options.annotations or options.out / "annotations"
    store = Store(options.out / "images" / options.split)
    async with download.session(policy, options.concurrency) as client:
        await fetch_annotations(client, release, annotations, options.annotations_url, policy)
        image_ids = annotated_ids(annotations, release)
        wanting = store.wanting(image_ids, options.retry_missing)
        print(f"{len(image_ids):,} annotated images, {len(image_ids) - len(wanting):,} of them done before", flush=True)
        if options.from_tar:
            return from_tars(store, options.from_tar, wanting)
        url = f"{options.images_url}/{options.split}"
        await announce(client, [f"{url}/{image_id}.jpg" for image_id in wanting], store.folder, policy)
        return await fetch_photos(client, store, wanting, url, policy, options.concurrency)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tfds_naturel.fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where annotations/ and images/ go")
    parser.add_argument("--split", choices=["train"], default="train", help="the bucket's folder (rows refer to train)")
    parser.add_argument("--release", choices=RELEASES, default="v4")
    parser.add_argument("--annotations", type=Path, help="annotation files you have; what is lacking comes here")
    parser.add_argument("--from-tar", type=Path, nargs="+", metavar="TAR", help="take the photos from these tar files")
    parser.add_argument("--retry-missing", action="store_true", help="ask again for photos that could not be had")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--attempts", type=int, default=Policy.attempts, help="tries for one file")
    parser.add_argument("--stall", type=float, default=Policy.stall, help="seconds without a byte that end a try")
    parser.add_argument("--images-url", default=IMAGES_URL, help="a mirror of the bucket")
    parser.add_argument("--annotations-url", default=ANNOTATIONS_URL, help="a mirror of the annotation files")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    try:
        counts = asyncio.run(run(_options(arguments)))
    except (Transient, MissingKey, ValueError, OSError) as error:
        raise SystemExit(f"fetch: {error}") from error
    print(", ".join(f"{status} {count:,}" for status, count in sorted(counts.items())) or "nothing to do")
    if counts[_FAILED] or counts["absent"]:
        sys.exit("fetch: some photos are not there yet; run the same command again")


if __name__ == "__main__":
    main()
