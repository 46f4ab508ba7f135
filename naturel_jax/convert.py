"""``python -m naturel_jax.convert SRC DST``: converts any checkpoint to a folder that transformers, OpenCLIP or
big_vision reads.

SRC is hf:owner/name, open_clip:owner/name, run:workdir, a folder, a file, or preset:file.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from naturel_jax import weights
from naturel_jax.models.two_tower import Params, TwoTowerConfig, resize_positions
from naturel_jax.weights import export, runs, verify
from naturel_jax.weights.tables import flatten
from tfds_naturel import cli, escape
from tfds_naturel.errors import UserError

_RECIPE = ("name", "objective", "optim", "duration", "seed")  # fields of a run's config shown in its model card


def interpolate(base: Params, tuned: Params, alpha: float) -> Params:
    """``(1 - alpha) * base + alpha * tuned``, every parameter (WiSE-FT, Wortsman et al., arXiv 2109.01903, equation 1).

    Raises UserError for trees of different shapes.
    """
    shapes = [{path: leaf.shape for path, leaf in flatten(tree).items()} for tree in (base, tuned)]
    if shapes[0] != shapes[1]:
        different = sorted(p for p in shapes[0].keys() | shapes[1].keys() if shapes[0].get(p) != shapes[1].get(p))
        raise UserError(f"the two models cannot be interpolated: {', '.join(different[:5])} differ in shape")
    return jax.tree.map(lambda a, b: (1 - alpha) * a + alpha * b, base, tuned)


def _interpolated(source: str, config: TwoTowerConfig, params: Params, alpha: float) -> Params:
    base = weights.load(source)
    if base.config != config:
        names = [field.name for field in dataclasses.fields(config)]
        different = [name for name in names if getattr(config, name) != getattr(base.config, name)]
        raise UserError(f"--interpolate {source} is a different model from SRC: {', '.join(different)} differ")
    return interpolate(base.params, params, alpha)


def _facts(args: argparse.Namespace) -> dict[str, object]:
    """The model card's sections."""
    facts: dict[str, object] = {"Source": escape.code(args.source)}
    if args.interpolate:
        facts["Interpolation"] = (
            f"{1 - args.alpha:g} of {escape.code(args.interpolate)}, {args.alpha:g} of the source, weight by weight."
        )
    if args.source.startswith("run:"):
        step, meta = runs.read_meta(args.source.removeprefix("run:"))
        config = meta["config"]
        facts["Recipe"] = {"step": step, **{key: config[key] for key in _RECIPE if key in config}}
        facts["Data"] = config.get("data", "The training data of the checkpoint that this run was converted from.")
    if args.metrics:
        facts["Metrics"] = args.metrics.read_text("utf-8")
    return facts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m naturel_jax.convert", description=__doc__)
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("folder", metavar="DST", type=Path, help="a new folder; an existing one is refused")
    parser.add_argument("--to", choices=sorted(export.WRITERS), default="hf", help="format of DST (default: hf)")
    parser.add_argument("--dtype", choices=sorted(export.DTYPES), default="float32", help="dtype of the weights in DST")
    parser.add_argument("--size", type=int, help="resample the position embeddings for images of this many pixels")
    parser.add_argument("--interpolate", metavar="BASE", help="interpolate with this checkpoint, weight by weight")
    parser.add_argument("--alpha", type=float, default=0.5, help="weight of SRC in the interpolation (default: 0.5)")
    parser.add_argument("--metrics", type=Path, help="a Markdown table for the model card")
    parser.add_argument(
        "--verify", action="store_true", help="compare embeddings with those computed by the libraries of SRC and DST"
    )
    return parser


def convert(args: argparse.Namespace) -> None:
    """Runs the command. Raises UserError, FileNotFoundError or FileExistsError, whose messages say what to do."""
    if args.folder.exists():
        raise FileExistsError(f"{args.folder} exists; choose another name or remove it")
    config, params, processor = weights.load(args.source)
    if args.interpolate:
        params = _interpolated(args.interpolate, config, params, args.alpha)
    if args.size is not None:
        if args.size < config.image.patch:
            raise UserError(f"--size {args.size} is smaller than one patch of SRC: {config.image.patch} pixels")
        config, params = resize_positions(config, params, args.size)
        processor = dataclasses.replace(processor, size=args.size)
    export.save(args.folder, config, params, processor, form=args.to, dtype=args.dtype, facts=_facts(args))
    print(f"wrote {args.folder}")
    if args.verify:
        _verify(args, config, params)


def _verify(args: argparse.Namespace, config: TwoTowerConfig, params: Params) -> None:
    """Prints how far our embeddings are from those computed by the libraries of SRC and DST."""

    def compare(name: object, path: Path, form: str, config: TwoTowerConfig, params: Params) -> None:
        difference = verify.largest_difference(path, form, config, params)
        print(f"{name}: embeddings within {difference:.2e} of those from {verify.PEERS[form].name}")

    if not args.source.startswith("run:"):
        source = weights.find(args.source)
        if source.form in verify.PEERS:
            loaded = source.load(None)
            compare(args.source, source.path, source.form, loaded.config, loaded.params)
    compare(args.folder, args.folder, args.to, config, params)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    convert(_parser().parse_args(arguments))


if __name__ == "__main__":
    cli.run(main)
