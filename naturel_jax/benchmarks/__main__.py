"""Lists the benchmarks: which are present, which are missing, where to get them and under which licence; and downloads
those that may be downloaded.

    naturel-benchmarks --dir ~/benchmarks
    naturel-benchmarks --dir ~/benchmarks --download sugarcrepe coco_order
    naturel-benchmarks pairs:my.jsonl
    naturel-benchmarks --dir ~/benchmarks --shortcuts

The last prints how much of each can be solved without its images, for which the annotation files are enough. To work
offline, put the files where the list says; nothing else is needed.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks import own, registry, shortcuts
from naturel_jax.benchmarks.benchmark import Source
from naturel_jax.benchmarks.download import download
from naturel_jax.benchmarks.files import MORE, annotations_only
from naturel_jax.benchmarks.registry import BENCHMARKS
from naturel_jax.config import own_benchmarks
from naturel_jax.config.own_benchmarks import BenchmarkFields
from naturel_jax.storage import staging
from naturel_jax.storage.object_stores import in_store
from tfds_naturel.common import cli
from tfds_naturel.common.errors import Stopped, UserError

_DIR = "benchmarks_data"  # if no other is named


def describe(name: str, files: Path, naturel: Path | None, fields: Mapping[str, BenchmarkFields]) -> str:
    """Says of one benchmark what is present, or what is missing and where to get it. Raises UserError for a broken
    user-defined one."""
    try:
        benchmark = registry.read([name], files=files, naturel=naturel, fields=fields)[0]
    except (FileNotFoundError, UserError) as error:
        if name not in BENCHMARKS:
            raise
        try:
            source = BENCHMARKS[name].SOURCE
        except UserError:  # its package cannot be imported
            return str(error)
        missing = "" if isinstance(error, UserError) else "missing: "
        reason = str(error).removeprefix(f"{name} ").partition(MORE)[0]  # which says to run this command
        fetched = f"; --download {name} fetches {_fetched(source)}" if source.downloadable else ""
        where = f"it is {source.needs}; from {source.where}; {source.licence}{fetched}"
        return f"{missing}{reason}\n    {where}{_reader(name)}"
    published = f" of {benchmark.published:,} published" if benchmark.published else ""
    state = f"{len(benchmark.items):,}{published} items"
    if benchmark.problems:
        state += f", {len(benchmark.problems):,} problems; the first: {benchmark.problems[0]}"
    return f"{state}{_reader(name)}"


def _fetched(source: Source) -> str:
    if source.hub or source.images:
        return "it"
    return ", ".join(source.files) if len(source.files) < 3 else f"{len(source.files)} annotation files, no images"


def _only(fields: Mapping[str, BenchmarkFields], name: str) -> dict[str, BenchmarkFields]:
    """The fields of the benchmark ``name``, if they are given."""
    return {key: value for key, value in fields.items() if key == own_benchmarks.name_of(name)}


def _reader(name: str) -> str:
    """A line on how far the reader of official files is known to be right."""
    official = name in BENCHMARKS and not registry.reads_dataset(name)
    return f"\n    reader: {BENCHMARKS[name].SOURCE.tier}" if official else ""


def map_shortcuts(
    names: Sequence[str], files: Path, naturel: Path | None, fields: Mapping[str, BenchmarkFields], seen: Sequence[str]
) -> str:
    """The map of ``shortcuts`` of the benchmarks called ``names``, or of every one whose annotation files are there;
    ``seen``: files or prepared folders of training captions. Raises UserError for a named one that cannot be read."""
    pairs = frozenset(pair for file in seen for text in own.captions(file) for pair in shortcuts.word_pairs(text))
    found, not_compared, missing = [], [], 0
    for name in names or BENCHMARKS:
        with annotations_only() as read:
            try:
                benchmark = registry.read([name], files=files, naturel=naturel, fields=_only(fields, name))[0]
            except (FileNotFoundError, UserError):
                if names:
                    raise
                missing += 1
                continue
        if not benchmark.items:  # ImageCoDe's records name folders of images
            missing += 1
        elif shortcuts.is_compared(benchmark):
            found.append(shortcuts.mapped(benchmark, read, pairs))
        else:
            not_compared.append(benchmark.name)
    parts = [shortcuts.markdown(found, (*shortcuts.COLUMNS, *(shortcuts.SEEN if pairs else ())))]
    if not_compared:
        parts.append(f"No pairs, groups or choices: {', '.join(not_compared)}.")
    if missing:
        parts.append(f"{missing} more benchmarks are not there; `naturel-benchmarks --dir DIR` says what they need.")
    return "\n\n".join(parts)


def main(arguments: Sequence[str]) -> None:
    """The command line. Raises Stopped if some files are left for another run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default=_DIR, help="folder with the official files")
    parser.add_argument("--naturel", help="a prepared TFDS folder, such as data/naturel/full/4.1.0")
    parser.add_argument("--download", nargs="+", default=[], choices=sorted(BENCHMARKS), metavar="NAME")
    parser.add_argument(
        "names", nargs="*", help="benchmarks to list, or your own, such as pairs:my.jsonl; default: all"
    )
    parser.add_argument("--shortcuts", action="store_true", help="print what can be solved without images, as Markdown")
    meaning = "with --shortcuts: training captions to look for word pairs in: files, or prepared NatuRel folders"
    parser.add_argument("--seen", nargs="+", default=[], metavar="PATH", help=meaning)
    own_benchmarks.add_fields(parser)
    options = parser.parse_args(arguments)
    if options.download and in_store(options.dir):
        raise UserError(f"--dir {options.dir}: downloads go to a disk; copy the folder to the store afterwards")
    if not options.download and not storage.exists(epath.Path(options.dir)) and options.dir != _DIR:
        raise UserError(
            f"--dir {options.dir}: no such folder; expected one with official files, or --download, which makes it"
        )
    files, naturel = staging.stage(options.dir), staging.stage(options.naturel) if options.naturel else None
    fields = own_benchmarks.parse_fields(options.fields)
    own_benchmarks.check_names(options.names, fields, "--fields")
    if options.seen and not options.shortcuts:
        raise UserError("--seen is for --shortcuts, which is not given")
    failed = 0
    for name in options.download:
        for problem in download(name, BENCHMARKS[name].SOURCE, files):
            print(f"could not download {problem}", flush=True)
            failed += 1
    if options.shortcuts:
        print(map_shortcuts(options.names or options.download, files, naturel, fields, options.seen), flush=True)
    described = (
        (own_benchmarks.name_of(name), describe(name, files, naturel, _only(fields, name)))
        for name in (() if options.shortcuts else options.names or options.download or BENCHMARKS)
    )
    for text, same in itertools.groupby(described, key=lambda pair: pair[1]):  # many say the same
        print(f"{', '.join(name for name, _ in same)}: {text}", flush=True)
    if failed:
        raise Stopped(f"{failed:,} files could not be downloaded; run the same command again to fetch them")


if __name__ == "__main__":
    cli.run(main)
