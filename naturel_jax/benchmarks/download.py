"""Downloads the files of a benchmark's ``SOURCE``. Offline, the user puts the same files into the same folder."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from naturel_jax.benchmarks.benchmark import HubFiles, Source
from naturel_jax.benchmarks.files import MAX_IMAGE_BYTES
from naturel_jax.data.images.decode import open_image
from naturel_jax.storage import hub
from tfds_naturel.common.download import MissingKey, Policy, Transient, get_bytes, retried, session
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import parse_json, unlinked
from tfds_naturel.common.progress import Progress

CONNECTIONS = 16
MAX_FAILURES = 50  # in a row, after which the other files are not tried
MAX_TEXT_BYTES = 256 << 20  # limit for files that are not images; the largest official one has 60 MB

Extract = Callable[[bytes], bytes]  # downloaded bytes -> content of the file; raises ValueError


def download(name: str, source: Source, root: Path) -> list[str]:
    """Downloads the files of ``name`` that may be downloaded and are missing in ``root``; returns what failed.

    A file appears under its final name only once it is complete and valid (JSON, or an image that decodes). Raises
    UserError for a benchmark that may not be downloaded at all, or whose hub dataset cannot be read.
    """
    if not source.downloadable:
        raise UserError(f"{name} cannot be downloaded by a program: get {source.needs} from {source.where}")
    print(f"{name} from {source.where}, licence: {source.licence}", flush=True)
    if source.hub:
        _from_hub(source.hub, root)
    extract = dict.fromkeys(source.files, _json) | dict(source.extract)
    problems = asyncio.run(_fetch_all(source.files, root, extract, MAX_TEXT_BYTES))
    if source.images and not problems:
        images = source.images(root)
        problems = asyncio.run(_fetch_all(images, root, dict.fromkeys(images, _image), MAX_IMAGE_BYTES))
    return problems


def _from_hub(files: HubFiles, root: Path) -> None:
    """Links the files where the reader looks: Parquet and JSON files side by side, others under their own paths."""
    snapshot = hub.snapshot(files.dataset, [files.pattern], dataset=True)
    for file in sorted(path for path in snapshot.rglob("*") if path.is_file()):
        flat = file.suffix in (".parquet", ".json")
        target = root / files.folder / (file.name if flat else file.relative_to(snapshot))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() and not target.exists():  # the hub's cache was cleared
            target.unlink()
        if not target.exists():
            target.symlink_to(file.resolve())


def _json(data: bytes) -> bytes:
    """``data``. Raises ValueError unless it is JSON or one JSON value per line."""
    text = data.decode()
    try:
        parse_json(text)
    except ValueError:
        for line in text.splitlines():
            parse_json(line)
    return data


def _image(data: bytes) -> bytes:
    """``data``. Raises ValueError unless it is an image that decodes."""
    open_image(data)
    return data


async def _fetch_all(files: Mapping[str, str], root: Path, extract: Mapping[str, Extract], limit: int) -> list[str]:
    """Downloads the missing ones of ``files`` (path -> URL), each of at most ``limit`` bytes; returns what failed.
    Stops after ``MAX_FAILURES`` failures in a row: the server is down, or another one answers in its place.
    """
    missing = {path: url for path, url in files.items() if not (root / path).exists()}
    policy, problems, failures = Policy(), list[str](), 0
    async with session(policy, CONNECTIONS) as client:
        slots = asyncio.Semaphore(CONNECTIONS)

        async def fetch(path: str, url: str) -> None:
            nonlocal failures
            async with slots:
                if failures >= MAX_FAILURES:
                    problems.append(f"{url}: not tried, since {failures} files in a row failed")
                    return
                try:
                    data = extract[path](await retried(lambda: get_bytes(client, url, limit), policy))
                except (MissingKey, Transient, OSError, ValueError) as error:
                    failures += 1
                    problems.append(f"{url}: {error}")
                    return
            failures = 0
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            part = unlinked(target.with_name(target.name + ".part"))
            part.write_bytes(data)
            part.replace(target)

        tasks = [fetch(path, url) for path, url in missing.items()]
        with Progress(total=len(tasks), unit="files", desc="downloaded", disable=not tasks) as progress:
            for task in asyncio.as_completed(tasks):
                await task
                progress.update()
    return sorted(problems)
