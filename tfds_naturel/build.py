"""Builds a NatuRel dataset.

    naturel-data-fetch --split train --out DIR
    naturel-data-build full --manual_dir DIR --data_dir OUT

writes ``OUT/naturel/full/<version>`` (ArrayRecord, or TFRecord for tf.data users) and its dataset card. A finished
dataset is left untouched; if a build was interrupted, its files are removed and it starts over. One process at a time
builds a dataset; another one is refused meanwhile.

Datasets: full, relations, attributes and full_v6 of Open Images; scenes, scenes_hard, scenes_bindings and
scenes_agents, which are drawn; coco_order, negclip_tsv and winoground_part.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etils import epath

from tfds_naturel.common import cli, extras
from tfds_naturel.common.errors import UserError
from tfds_naturel.open_images.plan import OpenImagesConfig

if TYPE_CHECKING:
    from tfds_naturel import naturel

_NUMBERS = ("short_side", "quality", "seed", "max_rejected", "max_missing")
_CHOICES = ("annotations", "images", "bank", "decisions", "takedown", *_NUMBERS)


def make_builder(options: argparse.Namespace) -> "naturel.Naturel":
    """The builder for these command-line options. Raises UserError for an unknown dataset, and for changed options
    without a new name.
    """
    from tfds_naturel import naturel  # imports TensorFlow Datasets, which `--help` does not need

    if options.config not in naturel.Naturel.builder_configs:
        known = ", ".join(naturel.Naturel.builder_configs)
        raise UserError(f"there is no dataset {options.config!r}; expected one of: {known}")
    arguments = {"data_dir": options.data_dir, "file_format": options.format, "use_beam": bool(options.beam)}
    changes = {field: getattr(options, field) for field in _CHOICES if getattr(options, field) is not None}
    if options.unofficial:
        changes["official"] = False
    if options.decisions:
        changes["decisions"] = tuple(options.decisions)  # a config is hashed
    if not changes and options.name is None:
        return naturel.Naturel(config=options.config, **arguments)
    if options.config not in naturel.OPEN_IMAGES:
        raise UserError(
            f"--{'/--'.join(changes) or 'name'}: only for Open Images ({', '.join(naturel.OPEN_IMAGES)}), not for "
            f"{options.config!r}; remove it"
        )
    if options.name is None:
        raise UserError(f"--{'/--'.join(changes)}: changes the contents of {options.config!r}; set a new --name")
    config = dataclasses.replace(naturel.OPEN_IMAGES[options.config], name=options.name, **changes)
    return naturel.Naturel(config=naturel.open_images(config), **arguments)


def build(options: argparse.Namespace) -> epath.Path:
    """Builds the dataset unless it exists; returns its folder. Raises UserError if it exists with other options, and
    while another process builds it."""
    import tensorflow_datasets as tfds

    from tfds_naturel import naturel
    from tfds_naturel.release import card

    if options.manual_dir and not options.manual_dir.expanduser().is_dir():
        raise UserError(
            f"--manual_dir {options.manual_dir}: not a folder; {naturel.Naturel.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    builder = make_builder(options)
    folder = epath.Path(builder.data_dir)
    if folder.exists():
        _check_same_options(builder)
        card.write(builder)
        print(f"{folder}: already built")
        return folder
    manual_dir = options.manual_dir and options.manual_dir.expanduser()
    beam_options = extras.beam_options(options.beam) if options.beam is not None else None
    download_config = tfds.download.DownloadConfig(manual_dir=manual_dir, beam_options=beam_options)
    builder.download_and_prepare(download_config=download_config)
    print(f"{folder}: {sum(split.num_examples for split in builder.info.splits.values()):,} images; card in README.md")
    return folder


def _check_same_options(builder: "naturel.Naturel") -> None:
    assert builder.info.metadata is not None  # set by _info
    expected = json.loads(json.dumps(builder.config.options()))  # as stored, where tuples are lists
    built = builder.info.metadata["options"]
    differing = [key for key in expected | built if built.get(key) != expected.get(key)]
    if differing:
        details = ", ".join(f"{key} {built.get(key)!r}, now {expected.get(key)!r}" for key in differing)
        raise UserError(f"{builder.data_dir}: already built with {details}; set a new --name, or remove the folder")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="naturel-data-build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", metavar="DATASET", help="one of the datasets above")
    parser.add_argument("--data_dir", type=epath.Path, help="output folder (default: ~/tensorflow_datasets)")
    parser.add_argument(
        "--manual_dir", type=cli.on_disk, help="folder filled by fetch, or one with coco/ or winoground/"
    )
    parser.add_argument("--format", choices=["array_record", "tfrecord"], default="array_record")
    parser.add_argument(
        "--beam", metavar="OPTIONS", help="build with Beam: runner=DirectRunner,direct_num_workers=2,..."
    )
    photos = parser.add_argument_group("Open Images")
    photos.add_argument(
        "--annotations", type=cli.on_disk, help="folder of annotation files (default: below --manual_dir)"
    )
    photos.add_argument(
        "--images", type=cli.on_disk, help="folder of photos, <ImageID>.jpg (default: below --manual_dir)"
    )
    photos.add_argument(
        "--unofficial",
        action="store_true",
        help="accept files other than the published ones; the box file may have its header only",
    )
    photos.add_argument("--name", help="name of the dataset; required if any option differs from the config")
    photos.add_argument("--bank", type=cli.on_disk, help="caption bank (default: the one in the package)")
    photos.add_argument(
        "--decisions",
        type=cli.on_disk,
        nargs="+",
        help="annotators' files; captions that a majority rejects are replaced",
    )
    photos.add_argument("--takedown", type=cli.on_disk, help="image ids to leave out, besides the published list")
    for field in dataclasses.fields(OpenImagesConfig):
        if field.name in _NUMBERS:
            kind = type(field.default)
            photos.add_argument(f"--{field.name}", type=kind, help=f"default: {field.default}")
    build(parser.parse_args(arguments))


if __name__ == "__main__":
    cli.run(main)
