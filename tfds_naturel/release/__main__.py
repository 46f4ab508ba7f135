"""Writes the publishable part of a built NatuRel dataset: everything but the photos.

    naturel-data-release --dataset data/naturel/full/4.1.0 --out naturel-full

writes a folder in the layout of the Hugging Face hub: Parquet files that ``datasets.load_dataset`` reads, the card
(README.md), Croissant metadata, a datasheet, licences, the takedown procedure and list, the changelog and checksums.
docs/release.md says how to publish it.
"""

import argparse
import datetime
import re
from collections.abc import Sequence

from etils import epath

from tfds_naturel.common import cli
from tfds_naturel.release import pages
from tfds_naturel.release.files import release


def _date(text: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a date such as 2026-01-31") from error


def _url(text: str) -> str:
    if not re.fullmatch(r"https://[^\s<>\"\\{}]+", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a URL that starts with https://")
    return text


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="naturel-data-release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset", type=epath.Path, required=True, help="a built dataset, <data_dir>/naturel/full/4.1.0"
    )
    parser.add_argument("--out", type=cli.on_disk, required=True, help="the folder to write; it must not exist")
    parser.add_argument("--takedown", type=cli.on_disk, help="image ids to leave out, besides the published list")
    parser.add_argument("--with_images", action="store_true", help="include the images of a drawn dataset")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    parser.add_argument("--date", type=_date, default=today, help="date of publication, YYYY-MM-DD (default: today)")
    parser.add_argument("--url", type=_url, help="where it will be published, for the citation")
    parser.add_argument("--contact", help="e-mail address or URL for takedown requests")
    options = vars(parser.parse_args(arguments))
    out = options.pop("out").expanduser()
    facts = release(options.pop("dataset").expanduser(), out, **options)
    print(f"{pages.sizes(facts)}\n{out}: {facts.summary()}")


if __name__ == "__main__":
    cli.run(main)
