"""``naturel-convert SRC DST``: converts any checkpoint to a folder that transformers, OpenCLIP or big_vision reads.

SRC is hf:owner/name, open_clip:owner/name, run:workdir, a folder, a file, or preset:file.
"""

import argparse
from collections.abc import Sequence

from etils import epath

from naturel_jax.weights import export
from naturel_jax.weights.conversion import convert
from tfds_naturel.common import cli


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="naturel-convert", description=__doc__)
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("folder", metavar="DST", type=epath.Path, help="a new folder; an existing one is refused")
    parser.add_argument("--to", choices=sorted(export.FORMS), default="hf", help="format of DST (default: hf)")
    parser.add_argument("--dtype", choices=sorted(export.DTYPES), default="float32", help="dtype of the weights in DST")
    parser.add_argument("--size", type=int, help="resample the position embeddings for images of this many pixels")
    parser.add_argument("--interpolate", metavar="BASE", help="interpolate with this checkpoint, weight by weight")
    parser.add_argument("--alpha", type=float, default=0.5, help="weight of SRC in the interpolation (default: 0.5)")
    parser.add_argument("--drop_bias", action="store_true", help="leave out the logit bias; it changes no ranking")
    parser.add_argument("--base", help="with --to peft: the name of SRC's base for transformers, if its own is another")
    parser.add_argument(
        "--verify", action="store_true", help="compare weights, pixels and token ids with the libraries of SRC and DST"
    )
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload DST to this model repository of the hub")
    parser.add_argument("--private", action="store_true", help="with --push: create the repository as a private one")
    parser.add_argument("--dry_run", action="store_true", help="with --push: only list the files that it would upload")
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    convert(_parser().parse_args(arguments))


if __name__ == "__main__":
    cli.run(main)
