"""Where the scores of a report come from: code, machine, config and data, from the files in the folders of its runs."""

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from naturel_jax import storage
from naturel_jax.checkpoints import recorded
from naturel_jax.config import Config, versions
from naturel_jax.config.settings import flat
from naturel_jax.data.seen import trained_on
from naturel_jax.devices import machine
from naturel_jax.report.contents import Section
from naturel_jax.report.tables import MISSING

CONFIG, DATA = "config.json", "data.json"  # in the folder of a run
MADE_BY = "made_by"  # entry of ``CONFIG``: code, processor and accelerators of the process that began the run
_NOT_NOTED = "not noted"


def sections(runs: Mapping[str, epath.Path], recipe: Sequence[str] = (), accelerators: str = MISSING) -> list[Section]:
    """``runs``: row of a report -> folder of its run, or of the first one of several. ``recipe``: what differs from the
    config file, in lines; ``accelerators``: those of this process, if it uses any. Raises UserError for a damaged file.
    """
    saved = {name: _read(folder / CONFIG) for name, folder in runs.items()}
    saved = {name: record for name, record in saved.items() if record}
    configs = {name: versions.from_json(record["config"]) for name, record in saved.items()}
    folders = {name: runs[name] for name in configs}
    found = [_made(saved, folders, accelerators)]
    return [*found, _config(configs, recipe), _data(configs, folders)] if configs else found


def _read(path: epath.Path) -> dict[str, Any]:
    return storage.read_json(path) if storage.exists(path) else {}


def _made(saved: Mapping[str, Mapping[str, Any]], folders: Mapping[str, epath.Path], accelerators: str) -> Section:
    """A column for the process that writes the report, and one for each run or those that were made alike."""
    here = {"date": _date(datetime.datetime.now(datetime.UTC)), **machine.describe(), "accelerators": accelerators}
    columns: dict[tuple[str, ...], list[str]] = {(*here.values(), MISSING): ["this report"]}
    for name, record in saved.items():
        made = {"date": _trained(folders[name])} | dict.fromkeys(list(here)[1:], _NOT_NOTED) | record.get(MADE_BY, {})
        packages = ", ".join(f"{package} {version}" for package, version in record.get("versions", {}).items())
        columns.setdefault((*(str(made[key]) for key in here), packages or _NOT_NOTED), []).append(name)
    rows = [(label.capitalize(), *cells) for label, *cells in zip((*here, "packages"), *columns, strict=True)]
    return Section("Where it comes from", ("", *map(", ".join, columns.values())), rows, words=True)


def _trained(folder: epath.Path) -> str:
    """The day on which a run recorded something last, UTC."""
    times = [line[recorded.TIME] for line in storage.read_json_lines(folder / recorded.FILE) if recorded.TIME in line]
    return _date(datetime.datetime.fromtimestamp(times[-1], datetime.UTC)) if times else _NOT_NOTED


def _date(time: datetime.datetime) -> str:
    return f"{time:%Y-%m-%d}"


def _config(configs: Mapping[str, Config], recipe: Sequence[str]) -> Section:
    """The fields in which a run differs from their defaults. Bases that are runs of the report have columns of their
    own."""
    of_runs = {name: dict(_without_bases(flat(config), configs)) for name, config in configs.items()}
    rows = []
    for field in dict.fromkeys(field for fields in of_runs.values() for field in fields):
        found = [fields.get(field) for fields in of_runs.values()]
        default = next(each[0] for each in found if each)
        if any(each and each[1] != default for each in found):
            values = [json.dumps(each[1]) if each else MISSING for each in found]
            rows.append((field, json.dumps(default), *values))
    text = [*recipe, "Fields that are not listed have their defaults."]
    return Section("Config", ("field", "default", *configs), rows, text, words=True)


def _without_bases(fields: Mapping[str, Any], configs: Mapping[str, Config]) -> Iterator[tuple[str, Any]]:
    bases = {base: one.name for config in configs.values() for base, one in config.bases.items()}
    shown = tuple(f"bases.{base}." for base, name in bases.items() if name in configs)
    return ((name, value) for name, value in fields.items() if not name.startswith(shown))


def _data(configs: Mapping[str, Config], folders: Mapping[str, epath.Path]) -> Section:
    """The parts of each mixture, and the images of all together."""
    rows, text = [], []
    for name, config in configs.items():
        tables = _read(folders[name] / DATA)
        for part, source in config.data.mixture.items():
            table = tables.get(part, {})  # only sources that are tables of records have one
            number, digest = (f"{table['records']:,}", table["content"]) if table else (MISSING, MISSING)
            cells = (source.dataset, source.split, source.recipe, f"{source.weight:g}", number, str(digest))
            rows.append((f"{name}: {part}", *cells))
        if images := _read(folders[name] / trained_on.FOLDER / f"{trained_on.FOLDER}.json"):
            number, read = (f"{images[field]:,}" for field in ("images", "read"))
            text.append(f"{name}: {number} images, bytes of {read} read, digest {images['xxh3']}.")
    head = ("run: part", "dataset", "split", "recipe", "weight", "records", "digest of the records")
    return Section("Training data", head, rows, text, words=True)
