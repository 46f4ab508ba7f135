"""Downloads the files of a benchmark's ``SOURCE``. Offline, the user puts the same files into the same folder."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import huggingface_hub
from tqdm.asyncio import tqdm

from naturel_jax.benchmarks.benchmark import HubFiles, Source
from naturel_jax.data.processor import open_image
from tfds_naturel.download import MissingKey, Policy, Transient, get_bytes, retried, session
from tfds_naturel.errors import UserError

CONNECTIONS = 16

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
    policy = Policy()
    extract = dict.fromkeys(source.files, _json) | dict(source.extract)
    problems = asyncio.run(_fetch_all(source.files, root, extract, policy))
    if source.images and not problems:
        images = source.images(root)
        problems = asyncio.run(_fetch_all(images, root, dict.fromkeys(images, _image), policy))
    return problems


def _from_hub(hub: HubFiles, root: Path) -> None:
    """Links the files where the reader looks: Parquet and JSON files side by side, others under their own paths."""
    try:
        path = huggingface_hub.snapshot_download(hub.dataset, repo_type="dataset", allow_patterns=[hub.pattern])
    except huggingface_hub.errors.HfHubHTTPError as error:
        raise UserError(f"dataset {hub.dataset} on the hub: {error}") from error
    snapshot = Path(path)
    for file in sorted(path for path in snapshot.rglob("*") if path.is_file()):
        flat = file.suffix in (".parquet", ".json")
        target = root / hub.folder / (file.name if flat else file.relative_to(snapshot))
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(file.resolve())


def _json(data: bytes) -> bytes:
    """``data``. Raises ValueError unless it is JSON or one JSON value per line."""
    text = data.decode()
    try:
        json.loads(text)
    except ValueError:
        for line in text.splitlines():
            json.loads(line)
    return data


def _image(data: bytes) -> bytes:
    """``data``. Raises ValueError unless it is an image that decodes."""
    open_image(data)
    return data


async def _fetch_all(files: Mapping[str, str], root: Path, extract: Mapping[str, Extract], policy: Policy) -> list[str]:
    """Downloads those of ``files`` (path -> URL) that are missing; returns what failed."""
    missing = {path: url for path, url in files.items() if not (root / path).exists()}
    problems: list[str] = []
    async with session(policy, CONNECTIONS) as client:
        slots = asyncio.Semaphore(CONNECTIONS)

        async def fetch(path: str, url: str) -> None:
            async with slots:
                try:
                    data = extract[path](await retried(lambda: get_bytes(client, url), policy))
                except (MissingKey, Transient, OSError, ValueError) as error:
                    problems.append(f"{url}: {error}")
                    return
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + ".part")
            part.write_bytes(data)
            part.replace(target)

        await tqdm.gather(*(fetch(path, url) for path, url in missing.items()), unit="file", disable=not missing)
    return sorted(problems)
