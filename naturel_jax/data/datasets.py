"""Opens the training data of a run. A data source is an entry in ``SOURCES`` and a file that reads it, or
an entry point of another package (``plugins.py``). Shape letter: G caption groups."""

import contextlib
import dataclasses
import difflib
import fnmatch
import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from naturel_jax import storage
from naturel_jax.config import Data
from naturel_jax.config.plugins import Registry
from naturel_jax.config.record_fields import Fields
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.images.augment import Crops
from naturel_jax.data.items import decoded_writer, index, index_writer, prepared, slices
from naturel_jax.data.items.items import Items, Origin, Source
from naturel_jax.data.items.records import Table
from naturel_jax.data.sources import csv, folder, huggingface, jsonl, parquet, webdataset
from naturel_jax.data.sources import tfds as tfds_table
from naturel_jax.devices import preemption
from naturel_jax.storage import object_folders, once, staging
from naturel_jax.storage.object_stores import in_store
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import version_of
from tfds_naturel.common.schema import EXCHANGED_KINDS, Kind
from tfds_naturel.scenes import twins
from tfds_naturel.scenes.scene import CONFIGS as WORLDS
from tfds_naturel.scenes.scene import VERSION, ScenesConfig
from tfds_naturel.sources import examples as recipe_examples

_LOG = logging.getLogger(__name__)

_TFDS = "tfds"  # the default prefix
_TWIN_SEED, _TWIN_ITEMS = 0, 400
_USUAL = Fields()
_MOST_CAPTIONS, _MOST_FACTS = 256, 4096
_GROUPS = 1 << 18  # that are looked at together
_POLL_S = 2.0

Opener = Callable[[str, str, str], Source | Table]  # (name without its prefix, config.data.dir, split) -> source


def open_sources(data: Data) -> list[Source]:
    """The sources of ``data.mixture``, in its order. Raises what ``open_source`` raises."""
    return [
        open_source(p.dataset, data.dir, p.split, p.fields, data.max_bad, data.cache_dir, kind=recipe(p.recipe).kind)
        for p in data.mixture.values()
    ]


def decode_sources(data: Data, sources: Sequence[Source], size: int) -> list[Source]:
    """``sources`` with decoded images for a model of ``size`` pixels, if ``data.cache`` asks for them; missing ones are
    decoded first, on each host. Raises what ``decoded_writer.decode`` raises."""
    if data.cache != "decoded":
        return list(sources)
    with preemption.interruptible():
        crops = Crops(size, data.crop_scale, data.shrink_by)
        return [decoded_writer.decode(source, crops, staging.root(data.cache_dir)) for source in sources]


def contents(data: Data, sources: Sequence[Source]) -> dict[str, dict[str, Any]]:
    """What identifies the records of each part, the tags that its recipe uses, and its file of hard images. Those that
    a run mines again are no part of it: they are written while it trains, each once. Raises what ``stage_file`` raises,
    and OSError for a file that is not there."""
    found: dict[str, dict[str, Any]] = {}
    for (name, part), source in zip(data.mixture.items(), sources, strict=True):
        items = source.items
        if source.content or part.hard_images:
            found[name] = {"records": len(items), "left_out": len(items.left_out), "content": source.content}
            if items.tags and (recipe(part.recipe).swaps or recipe(part.recipe).joins):
                found[name]["tags"] = items.tags.made_by
        if part.hard_images:
            found[name]["hard_images"] = once.checksum(staging.stage_file(part.hard_images, data.cache_dir))
    return found


def open_source(
    dataset: str,
    data_dir: str,
    split: str,
    fields: Fields = _USUAL,
    max_bad: float = Data.max_bad,
    cache_dir: str = "",
    kind: Kind | None = None,
) -> Source:
    """Opens ``split`` of ``dataset``, which is ``<prefix>:<name>`` with a prefix in ``SOURCES`` (default: ``tfds``).

    ``split``: or a slice of one (``slices``). ``fields`` and ``max_bad``: see ``config.Part`` and ``config.Data``; for
    tables of records. Their index is built if there is none, in ``<data_dir>/.cache``. ``cache_dir``: see ``staging``.
    ``kind``: that of the captions that the recipe samples; bindings and positions are groups of their own. Raises
    UserError for an unknown prefix, and whatever the opener and ``slices.take`` raise.
    """
    source = _open_whole(dataset, data_dir, slices.whole(split), fields, max_bad, cache_dir, kind)
    _check_widths(source.items)
    return source if split == slices.whole(split) else slices.take(source, split)


def _check_widths(items: Items) -> None:
    """Raises UserError for captions or facts that are too many: every batch is as wide as the widest, and its programs
    compare each fact that an image shows with each that a caption asserts."""
    for side, first in itertools.product((items.positives, items.negatives), range(0, len(items.attribute_G), _GROUPS)):
        number_G = np.diff(side.starts_G1[first : first + _GROUPS + 1])
        if number_G.max(initial=0) > _MOST_CAPTIONS:
            group = int(number_G.argmax())
            raise UserError(
                f"{items.name}, image {items.image_of(first + group)!r:.80}: {number_G[group]:,} true or false "
                f"captions; expected at most {_MOST_CAPTIONS}: leave some of them out"
            )
    shown, asserted = items.shows.widest, items.asserts.widest
    if shown * asserted > _MOST_FACTS:
        image, text = (int(facts.lengths.argmax()) for facts in (items.shows, items.asserts))
        raise UserError(
            f"{items.name}: image {items.image_ids[image]!r:.80} shows {shown:,} facts, and the caption "
            f"{items.texts[text]!r:.80} asserts {asserted:,}; expected at most {_MOST_FACTS:,} pairs of them: leave "
            "some of the facts out"
        )


def _open_whole(
    dataset: str, data_dir: str, split: str, fields: Fields, max_bad: float, cache_dir: str, kind: Kind | None
) -> Source:
    exchanged = kind if kind in EXCHANGED_KINDS else None
    opened = open_unindexed(dataset, data_dir, split, cache_dir, exchanged)
    if isinstance(opened, Source):
        if fields != _USUAL:
            raise UserError(f"config.data.mixture: dataset {dataset!r} has captions in groups; leave `fields` empty")
        return opened
    path = index_writer.folder_of(opened, fields, os.fspath(staging.local_path(data_dir, cache_dir)))
    with preemption.interruptible():
        preemption.on_first_process(lambda: index_writer.build(opened, fields, path))
        index_writer.build(opened, fields, path)  # on a disk that is not shared with the first process
    return index.open_source(opened, fields, path, max_bad)


def world(dataset: str) -> ScenesConfig | None:
    """The world that ``dataset`` names, which is drawn if it is missing; None for other data. Raises UserError for an
    unknown prefix."""
    prefix, name = _parse(dataset)
    folder, _, config = name.partition("/")
    return WORLDS.get(config) if (prefix, folder) == (_TFDS, "naturel") else None


def check_there(dataset: str, data_dir: str, split: str = "train", kind: Kind | None = None) -> None:
    """Raises UserError if the dataset is not there, has an unknown prefix, or is a world without captions of ``kind``
    (as for ``open_source``). Nothing is drawn, copied from a store or indexed; what only that would show is not looked
    at."""
    prefix, name = _parse(dataset)
    if drawn := world(dataset):
        if kind in EXCHANGED_KINDS and not drawn.exchanges:
            raise prepared.no_captions(f"{dataset}:{split}", [kind])
    elif prefix == _TFDS:
        _newest(data_dir, name)
    elif prefix in _FILES and not in_store(name):
        _ROWS[prefix](name, data_dir, slices.whole(split))


def open_unindexed(
    dataset: str, data_dir: str, split: str, cache_dir: str = "", exchanged: Kind | None = None
) -> Source | Table:
    """What the opener of the prefix returns for local copies. ``exchanged``: the kind of the caption groups, one of
    ``EXCHANGED_KINDS``, if not those of triplets. Raises UserError for an unknown prefix, or a source without such
    groups, and what ``staging.stage`` and the opener raise."""
    prefix, name = _parse(dataset)
    if in_store(data_dir) and prefix == _TFDS:
        directory(data_dir, name, cache_dir)
    data_dir, name = os.fspath(staging.local_path(data_dir, cache_dir)), _stage_table(prefix, name, cache_dir)
    if not exchanged:
        return SOURCES[prefix](name, data_dir, split)
    opened = _open_tfds(name, data_dir, split, exchanged) if prefix == _TFDS else None
    if not isinstance(opened, Source):
        raise UserError(
            f"config.data.mixture: dataset {dataset!r} has no captions of kind {exchanged!r}; only prepared datasets "
            "with NatuRel's features have them, such as naturel/full"
        )
    return opened


def _parse(dataset: str) -> tuple[str, str]:
    """(prefix, name). Raises UserError for an unknown prefix."""
    prefix, colon, name = dataset.partition(":")
    if not colon:
        return _TFDS, dataset
    if prefix not in SOURCES:
        near = difflib.get_close_matches(prefix, SOURCES, 1)
        raise UserError(
            f"config.data.mixture: dataset {dataset!r} has prefix {prefix!r}; expected {', '.join(SOURCES)}"
            + (f": did you mean {near[0]}:{name}?" if near else "")
        )
    return prefix, name


def _open_tfds(name: str, data_dir: str, split: str, exchanged: Kind | None = None) -> Source | Table:
    path = directory(data_dir, name)
    if tfds_table.has_caption_groups(path):
        origin = _origin(path, data_dir, split, exchanged)
        return dataclasses.replace(prepared.open_source(path, split, Path(origin.cache), exchanged), origin=origin)
    return tfds_table.open_table(path, split)


def _origin(path: epath.Path, data_dir: str, split: str, exchanged: Kind | None) -> Origin:
    """Where the images of a prepared dataset come from."""
    key = [os.fspath(path), split, version_of(*prepared.files(path)), *([exchanged] if exchanged else [])]
    cache = once.folder_of(index_writer.cache_folder(data_dir), key)
    drawn = "pairs_per_family" in recipe_examples.metadata(path, "options")  # a field of ScenesConfig
    return Origin(str(cache), photos=not drawn, used=recipe_examples.used(path))


_ROWS: dict[str, Opener] = {
    _TFDS: _open_tfds,
    "jsonl": jsonl.open_table,
    "csv": csv.open_table,
    "parquet": parquet.open_table,
    "hf": huggingface.open_table,
    "webdataset": webdataset.open_table,
    "folder": folder.open_table,
}
_FILES = ("jsonl", "csv", "parquet", "webdataset", "folder")
SOURCES: Registry[Opener] = Registry(
    "naturel_jax.sources", _ROWS, "a function (name, data_dir, split) -> Source or Table", callable
)


def directory(data_dir: str, dataset: str, cache_dir: str = "") -> epath.Path:
    """The folder of the TFDS dataset ``<name>/<config>`` under ``data_dir``: its highest version (a local copy of it).

    Missing scenes worlds are drawn first, by the first process, which may raise Stopped. Raises UserError for any other
    missing dataset.
    """
    name, _, config = dataset.partition("/")
    if name == "naturel" and config in WORLDS:
        preemption.on_first_process(lambda: _draw_world(data_dir, config, cache_dir))
    newest = _newest(data_dir, dataset)
    return epath.Path(staging.stage(newest, cache_dir)) if in_store(newest) else newest


def _newest(data_dir: str, dataset: str) -> epath.Path:
    """The folder of its highest version. Raises UserError for a missing dataset."""
    root = epath.Path(data_dir) / dataset
    versions = {
        tuple(map(int, version.split("."))): root / version
        for version in storage.names(root)
        if re.fullmatch(r"\d+\.\d+\.\d+", version) and storage.exists(root / version / "dataset_info.json")
    }
    if not versions:
        raise UserError(
            f"dataset {dataset!r} is not prepared under {data_dir} (config.data.dir): "
            f"no {root}/<version>/dataset_info.json. {_how_to_prepare(dataset, data_dir)}"
        )
    return versions[max(versions)]


def _how_to_prepare(dataset: str, data_dir: str) -> str:
    """How to prepare a missing dataset."""
    name, _, config = dataset.partition("/")
    if (path := epath.Path(dataset)).exists():
        return f"The path {path} is there: name its source before it, such as csv:{path}; one of {', '.join(SOURCES)}"
    if name != "naturel":
        return f"Prepare it there with TFDS (data_dir={data_dir!r}), or name another source: {', '.join(SOURCES)}"
    known = sorted({"full", *WORLDS, *storage.names(epath.Path(data_dir) / "naturel")})
    if (near := difflib.get_close_matches(config, known, 1)) and near[0] != config:
        return f"Did you mean 'naturel/{near[0]}'? (In a config's argument: {near[0]!r})"
    drawn = ", ".join(map(repr, sorted(WORLDS)))
    return f"See docs/naturel.md, or use a world that is drawn when it is missing: one of {drawn}"


def twins_directory(data_dir: str, config: str, cache_dir: str = "", further: bool = False) -> Path:
    """The folder with the benchmark twins of the scenes world ``config``, or a local copy of it. If they are missing,
    or with ``further`` those for experiments, they are written first, which may raise Stopped."""
    last, draw = ("FURTHER.md", twins.write_further) if further else ("README.md", twins.write)
    folder = epath.Path(data_dir) / "twins" / config / VERSION
    out = staging.local_path(folder, cache_dir)
    finished = out / last

    def write() -> None:
        if in_store(folder) and storage.exists(folder / last):
            return
        with _only_writer(out, finished) as missing:
            if missing:
                _LOG.info("writing the benchmark twins of %s to %s", config, out)
                draw(out, WORLDS[config], _TWIN_SEED, _TWIN_ITEMS, preemption.check)
        if in_store(folder):
            object_folders.upload(object_folders.files_in(out), out, folder, last=last)

    preemption.on_first_process(write)
    return staging.stage(folder, cache_dir)


def _draw_world(data_dir: str, config: str, cache_dir: str) -> None:
    from tfds_naturel.naturel import Naturel  # imports TFDS, which is slow

    drawn = epath.Path(data_dir) / "naturel" / config / VERSION
    if in_store(data_dir) and storage.exists(drawn / "dataset_info.json"):
        return
    local = os.fspath(staging.local_path(data_dir, cache_dir))
    builder = Naturel(config=config, data_dir=local, check=preemption.check)
    folder = epath.Path(builder.data_dir)
    with _only_writer(folder.parent, folder / "dataset_info.json") as missing:
        if missing:
            _LOG.info("drawing naturel/%s into %s", config, folder)
            builder.download_and_prepare()
    if in_store(data_dir):
        object_folders.upload(object_folders.files_in(Path(folder)), Path(folder), drawn, last="dataset_info.json")


@contextlib.contextmanager
def _only_writer(folder: epath.Path, finished: epath.Path) -> Iterator[bool]:
    """Yields whether the file ``finished``, which is written last, is missing. If so, this process has a lease on
    ``folder``, after waiting for any other process that is writing there."""
    waiting = False
    while not finished.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(storage.lease(folder))
            except UserError as error:
                if not waiting:
                    _LOG.info("waiting: %s", str(error).partition(";")[0])
                waiting = True
                preemption.check()
                time.sleep(_POLL_S)
                continue
            yield not finished.exists()
            return
    yield False


def _stage_table(prefix: str, name: str, cache_dir: str) -> str:
    """The local name of the training source ``prefix:name``. What is in an object store is copied first: all of
    its folder, or of shards, those that are named."""
    if not in_store(name):
        return name
    if prefix == "webdataset":
        patterns = webdataset.expand(name)
        folder = _fixed_part(name)
        staging.stage(folder, cache_dir, lambda file: any(fnmatch.fnmatchcase(f"{folder}/{file}", p) for p in patterns))
    elif prefix in ("csv", "jsonl", "parquet"):
        staging.stage(_fixed_part(name), cache_dir)
    else:
        staging.stage(name, cache_dir)
    return os.fspath(staging.local_path(name, cache_dir))


def _fixed_part(pattern: str) -> str:
    """The folder of a file, or of all files that match a pattern."""
    return re.split(r"[*?\[{]", pattern)[0].rpartition("/")[0]
