"""Where the scores of a report come from: code, machine, config and data, from the files in the folders of its runs."""

import contextlib
import datetime
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks import registry
from naturel_jax.checkpoints import recorded
from naturel_jax.config import Config, versions
from naturel_jax.config.settings import flat
from naturel_jax.data.seen import trained_on
from naturel_jax.devices import machine
from naturel_jax.report.contents import Section
from naturel_jax.report.tables import MISSING
from tfds_naturel.common.errors import UserError

CONFIG, DATA = "config.json", "data.json"  # in the folder of a run
MADE_BY = "made_by"  # entry of ``CONFIG``: code, processor and accelerators of the process that began the run


class RunFolder(NamedTuple):
    """The folder of a run, and when it recorded something last, in seconds since 1970."""

    folder: epath.Path
    ended: float | None


def sections(runs: Mapping[str, RunFolder], recipe: Sequence[str] = (), accelerators: str = MISSING) -> list[Section]:
    """``runs``: row of a report -> its run, or the first one of several. ``recipe``: what differs from the config file,
    in lines; ``accelerators``: those of this process, if it uses any. Raises UserError for a damaged file."""
    found = {name: _read(run.folder / CONFIG) for name, run in runs.items()}
    saved = {name: record for name, record in found.items() if record is not None}
    configs = {}
    for name, record in saved.items():
        with _reading(runs[name].folder / CONFIG):
            configs[name] = versions.from_json(record["config"])
    made, text = _made(saved, runs, accelerators), [*recipe, *_extended(saved, runs)]
    return [made, _config(configs, text), _data(configs, runs)] if configs else [made]


def trained_by(folders: Iterable[epath.Path]) -> list[str]:
    """A line for each code and machine that began some of the runs in ``folders``: they may have been trained long
    before a report is written. Raises UserError for a damaged file."""
    numbers: Counter[tuple[str, ...]] = Counter()
    for folder in folders:
        with _reading(path := folder / CONFIG):
            made = storage.read_json(path)[MADE_BY]
            numbers[tuple(str(made[key]) for key in ("code", "processor", "accelerators"))] += 1
    return [
        f"{number} runs trained by naturel_jax {code}; {processor}; accelerators: {accelerators}"
        for (code, processor, accelerators), number in sorted(numbers.items())
    ]


@contextlib.contextmanager
def _reading(path: epath.Path) -> Iterator[None]:
    """Turns the errors of a file with other fields or types than a run writes into a UserError that names it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not what a run writes ({reason:.200}); restore it, or move it away") from error


def _read(path: epath.Path) -> dict[str, Any] | None:
    """The object in a file; None without the file."""
    return storage.read_json(path) if storage.exists(path) else None


def _made(saved: Mapping[str, Mapping[str, Any]], runs: Mapping[str, RunFolder], accelerators: str) -> Section:
    """A column for the process that writes the report, and one for each run or those that were made alike."""
    here = {"date": _date(datetime.datetime.now(datetime.UTC)), **machine.describe(), "accelerators": accelerators}
    columns: dict[tuple[str, ...], list[str]] = {(*here.values(), MISSING): ["this report"]}
    for name, record in saved.items():
        date = _trained(runs[name])
        with _reading(runs[name].folder / CONFIG):
            made = {"date": date} | record[MADE_BY]
            packages = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
            columns.setdefault((*(str(made[key]) for key in here), packages), []).append(name)
    rows = [(label.capitalize(), *cells) for label, *cells in zip((*here, "packages"), *columns, strict=True)]
    return Section("Where it comes from", ("", *map(", ".join, columns.values())), rows, words=True)


def _trained(run: RunFolder) -> str:
    """The day on which a run recorded something last, UTC."""
    if run.ended is None:
        return "not recorded"
    with _reading(run.folder / recorded.FILE):
        return _date(datetime.datetime.fromtimestamp(run.ended, datetime.UTC))


def _date(time: datetime.datetime) -> str:
    return f"{time:%Y-%m-%d}"


def _extended(saved: Mapping[str, Mapping[str, Any]], runs: Mapping[str, RunFolder]) -> list[str]:
    """A sentence for each time that a run became longer and is not what it would have been from the start."""
    found = []
    for name, record in saved.items():
        with _reading(runs[name].folder / CONFIG):
            found += [
                f"{name} became longer: until step {step:,}, its learning rate was that of {duration}."
                for step, duration in recorded.extended(record)
            ]
    return found


def _config(configs: Mapping[str, Config], notes: Sequence[str]) -> Section:
    """The fields in which a run differs from their defaults, after ``notes``. Bases that are runs of the report have
    columns of their own."""
    of_runs = {name: dict(_without_bases(flat(config), configs)) for name, config in configs.items()}
    rows = []
    for field in dict.fromkeys(field for fields in of_runs.values() for field in fields):
        found = [fields.get(field) for fields in of_runs.values()]
        default = next(each[0] for each in found if each)
        if any(each and each[1] != default for each in found):
            values = [json.dumps(each[1]) if each else MISSING for each in found]
            rows.append((field, json.dumps(default), *values))
    text = [*notes, *_drawn(configs.values()), "Fields that are not listed have their defaults."]
    return Section("Config", ("field", "default", *configs), rows, text, words=True)


def _drawn(configs: Iterable[Config]) -> list[str]:
    """A sentence on the benchmarks that are drawn, if there are any."""
    names = {
        name
        for config in configs
        for name in config.eval.benchmarks
        if registry.is_drawn(name, config.eval.naturel, config.eval.benchmarks_dir)
    }
    if not names:
        return []
    return [
        f"The items of {', '.join(sorted(names))} are drawn scenes with captions, in the form of the published files: "
        "these scores do not compare with published ones."
    ]


def _without_bases(fields: Mapping[str, Any], configs: Mapping[str, Config]) -> Iterator[tuple[str, Any]]:
    bases = {base: one.name for config in configs.values() for base, one in config.bases.items()}
    shown = tuple(f"bases.{base}." for base, name in bases.items() if name in configs)
    return ((name, value) for name, value in fields.items() if not name.startswith(shown))


def _data(configs: Mapping[str, Config], runs: Mapping[str, RunFolder]) -> Section:
    """The parts of each mixture, and the images of all together."""
    rows, text = [], []
    for name, config in configs.items():
        tables = _read(path := runs[name].folder / DATA) or {}
        for part, source in config.data.mixture.items():
            number = digest = MISSING
            if table := tables.get(part):  # a source of another package may have none
                with _reading(path):
                    number, digest = f"{table['records']:,}", table["content"] or MISSING
            cells = (source.dataset, source.split, source.recipe, f"{source.weight:g}", number, str(digest))
            rows.append((f"{name}: {part}", *cells))
        images = _read(path := runs[name].folder / trained_on.FOLDER / f"{trained_on.FOLDER}.json")
        if images is not None:
            with _reading(path):
                number, read = (f"{images[field]:,}" for field in ("images", "read"))
                bases = ", with those of its bases, which may be the same" if config.bases else ""
                text.append(f"{name}: {number} images{bases}; bytes of {read} read, digest {images['xxh3']}.")
    head = ("run: part", "dataset", "split", "recipe", "weight", "records", "digest of the records")
    return Section("Training data", head, rows, text, words=True)
