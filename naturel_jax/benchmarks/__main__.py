"""Lists the benchmarks: which are present, which are missing, where to get them and under which licence; and downloads
those that may be downloaded.

    python -m naturel_jax.benchmarks --dir ~/benchmarks
    python -m naturel_jax.benchmarks --dir ~/benchmarks --download sugarcrepe coco_order
    python -m naturel_jax.benchmarks pairs:my.jsonl

To work offline, put the files where the list says; nothing else is needed.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.download import download
from naturel_jax.benchmarks.files import MORE
from naturel_jax.benchmarks.registry import BENCHMARKS
from naturel_jax.config import own_benchmarks
from naturel_jax.config.own_benchmarks import BenchmarkFields
from naturel_jax.storage import staging
from naturel_jax.storage.object_stores import in_store
from tfds_naturel.common import cli
from tfds_naturel.common.errors import Stopped, UserError


def describe(name: str, files: Path, naturel: Path | None, fields: Mapping[str, BenchmarkFields]) -> str:
    """Describes one benchmark: what is present, or what is missing and where to get it. Raises UserError for a broken
    user-defined one."""
    try:
        benchmark = registry.read([name], files=files, naturel=naturel, fields=fields)[0]
    except (FileNotFoundError, UserError) as error:
        if name not in BENCHMARKS:
            raise
        try:
            source = BENCHMARKS[name].SOURCE
        except UserError:  # its package cannot be imported
            return f"{name}: {error}"
        missing = "" if isinstance(error, UserError) else "missing: "
        reason = str(error).removeprefix(f"{name} ").partition(MORE)[0]  # which says to run this command
        fetched = f"; --download {name} fetches it" if source.downloadable else ""
        where = f"it is {source.needs}; from {source.where}; {source.licence}{fetched}"
        return f"{name}: {missing}{reason}\n    {where}{_reader(name)}"
    published = f" of {benchmark.published:,} published" if benchmark.published else ""
    state = f"{len(benchmark.items):,}{published} items"
    if benchmark.problems:
        state += f", {len(benchmark.problems):,} problems; the first: {benchmark.problems[0]}"
    return f"{benchmark.name}: {state}{_reader(name)}"


def _reader(name: str) -> str:
    """A line on how far the reader of official files is known to be right."""
    official = name in BENCHMARKS and not registry.reads_dataset(name)
    return f"\n    reader: {BENCHMARKS[name].SOURCE.tier}" if official else ""


def main(arguments: Sequence[str]) -> None:
    """The command line. Raises Stopped if some files are left for another run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default="benchmarks_data", help="folder with the official files")
    parser.add_argument("--naturel", help="a prepared TFDS folder, such as data/naturel/full/4.0.0")
    parser.add_argument("--download", nargs="+", default=[], choices=sorted(BENCHMARKS), metavar="NAME")
    parser.add_argument(
        "names", nargs="*", help="benchmarks to list, or your own, such as pairs:my.jsonl; default: all"
    )
    own_benchmarks.add_fields(parser)
    options = parser.parse_args(arguments)
    if options.download and in_store(options.dir):
        raise UserError(f"--dir {options.dir}: downloads go to a disk; copy the folder to the store afterwards")
    files, naturel = staging.stage(options.dir), staging.stage(options.naturel) if options.naturel else None
    fields = own_benchmarks.parse_fields(options.fields)
    failed = 0
    for name in options.download:
        for problem in download(name, BENCHMARKS[name].SOURCE, files):
            print(f"could not download {problem}", flush=True)
            failed += 1
    for name in options.names or options.download or BENCHMARKS:
        own_fields = {own: value for own, value in fields.items() if own == own_benchmarks.name_of(name)}
        print(describe(name, files, naturel, own_fields), flush=True)
    if failed:
        raise Stopped(f"{failed:,} files could not be downloaded; run the same command again to fetch them")


if __name__ == "__main__":
    cli.run(main)
