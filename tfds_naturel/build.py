"""Builds a NatuRel dataset.

    python -m tfds_naturel.fetch --split train --out DIR
    python -m tfds_naturel.build full --manual-dir DIR --data-dir OUT

writes ``OUT/naturel/full/<version>`` (ArrayRecord, or TFRecord for tf.data users) with its card. A finished dataset is
left as it is; what an interrupted build left behind is removed, and the build starts again.
"""

import argparse
import dataclasses
import shutil
from pathlib import Path

import tensorflow_datasets as tfds

from tfds_naturel import card, naturel
from tfds_naturel.open_images.plan import OpenImagesConfig

_NUMBERS = ("short_side", "quality", "seed", "max_rejected", "max_missing")
_CHOICES = ("annotations", "images", "bank", "decisions", *_NUMBERS)


def builder(options: argparse.Namespace) -> naturel.Naturel:
    """The builder that the command line asks for. Raises ValueError when changed options come without a new name."""
    arguments = {"data_dir": options.data_dir, "file_format": options.format, "use_beam": bool(options.beam)}
    changes = {field: getattr(options, field) for field in _CHOICES if getattr(options, field) is not None}
    if options.unofficial:
        changes["official"] = False
    if not changes:
        return naturel.Naturel(config=options.config, **arguments)
    if options.config not in naturel.OPEN_IMAGES:
        raise ValueError(f"config {options.config!r} draws its pictures; --{'/--'.join(changes)} are for Open Images")
    if options.name is None:
        raise ValueError(f"--{'/--'.join(changes)} change what {options.config!r} is: give the result a --name")
    config = dataclasses.replace(naturel.OPEN_IMAGES[options.config], name=options.name, **changes)
    return naturel.Naturel(config=naturel.open_images(config), **arguments)


def build(options: argparse.Namespace) -> Path:
    """Builds what is not there yet; returns its folder. Raises ValueError when it is there from other input."""
    made = builder(options)
    folder = Path(made.data_dir)
    for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
        print(f"{leftover}: removed, an earlier build was interrupted", flush=True)
        shutil.rmtree(leftover)
    if folder.exists():
        _check_same(made)
        card.write(made)
        print(f"{folder}: finished before", flush=True)
        return folder
    manual_dir = options.manual_dir and options.manual_dir.expanduser()
    download_config = tfds.download.DownloadConfig(manual_dir=manual_dir, beam_options=_beam_options(options.beam))
    made.download_and_prepare(download_config=download_config)
    print(f"{folder}: {sum(split.num_examples for split in made.info.splits.values()):,} images; card in README.md")
    return folder


def _check_same(made: naturel.Naturel) -> None:
    expected, found = made.builder_config.options(), made.info.metadata["options"]
    differing = [key for key in expected if found.get(key) != expected[key]]
    if differing:
        details = ", ".join(f"{key} {found.get(key)!r}, now {expected[key]!r}" for key in differing)
        raise ValueError(
            f"{made.data_dir}: built before with {details}. Give the new one a --name, or remove the folder"
        )


def _beam_options(text: str | None):
    if text is None:
        return None
    from apache_beam.options.pipeline_options import PipelineOptions  # the build extra

    return PipelineOptions([f"--{option}" for option in text.split(",")])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tfds_naturel.build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", choices=list(naturel.Naturel.builder_configs))
    parser.add_argument("--data-dir", type=Path, help="where the dataset goes; by default ~/tensorflow_datasets")
    parser.add_argument("--manual-dir", type=Path, help="what tfds_naturel.fetch wrote, or holds coco/ or winoground/")
    parser.add_argument("--format", choices=["array_record", "tfrecord"], default="array_record")
    parser.add_argument(
        "--beam", metavar="OPTIONS", help="runner=DirectRunner,direct_num_workers=2,...: build with Beam"
    )
    photos = parser.add_argument_group("Open Images")
    photos.add_argument("--annotations", type=Path, help="annotation files elsewhere")
    photos.add_argument("--images", type=Path, help="photos elsewhere, <ImageID>.jpg")
    photos.add_argument("--unofficial", action="store_true", help="accept annotation files that are not the published")
    photos.add_argument("--name", help="name of a dataset with other options than the published config")
    photos.add_argument("--bank", type=Path, help="your caption bank")
    photos.add_argument("--decisions", type=Path, help="reviewers' decisions about the captions")
    for field in dataclasses.fields(OpenImagesConfig):
        if field.name in _NUMBERS:
            kind = type(field.default)
            photos.add_argument(f"--{field.name.replace('_', '-')}", type=kind, help=f"by default {field.default}")
    try:
        build(parser.parse_args(arguments))
    except (ValueError, OSError) as error:
        raise SystemExit(f"build: {error}") from error


if __name__ == "__main__":
    main()
