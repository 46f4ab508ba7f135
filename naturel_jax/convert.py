"""``python -m naturel_jax.convert SRC DST``: any checkpoint to a folder that transformers, OpenCLIP or big_vision
reads.

SRC is hf:owner/name, run:workdir, a folder, a file, or preset:file (naturel_jax/weights).
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax

from naturel_jax import checkpoint, weights
from naturel_jax.models.two_tower import Params, TwoTowerConfig, resize_positions
from naturel_jax.weights import export, verify
from naturel_jax.weights.tables import flatten

_RECIPE = ("name", "objective", "optim", "duration", "seed")  # fields of a run's config that its model card shows


def interpolate(base: Params, tuned: Params, alpha: float) -> Params:
    """``(1 - alpha) * base + alpha * tuned``, every parameter (WiSE-FT, Wortsman et al., arXiv 2109.01903, equation 1).

    Raises ValueError where the two are not of the same shapes.
    """
    shapes = [{path: leaf.shape for path, leaf in flatten(tree).items()} for tree in (base, tuned)]
    if shapes[0] != shapes[1]:
        odd = sorted(p for p in shapes[0].keys() | shapes[1].keys() if shapes[0].get(p) != shapes[1].get(p))
        raise ValueError(f"the two models cannot be interpolated: {', '.join(odd[:5])} differ in shape")
    return jax.tree.map(lambda a, b: (1 - alpha) * a + alpha * b, base, tuned)


def _interpolated(source: str, config: TwoTowerConfig, params: Params, alpha: float) -> Params:
    base_config, base, _ = weights.load(source)
    if base_config != config:
        fields = [f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(base_config, f.name)]
        raise ValueError(f"{source} computes something else than SRC: {', '.join(fields)} differ")
    return interpolate(base, params, alpha)


def _facts(args: argparse.Namespace) -> dict[str, Any]:
    """The model card's sections."""
    facts: dict[str, Any] = {"Source": f"`{args.source}`"}
    if args.interpolate:
        facts["Interpolation"] = (
            f"{1 - args.alpha:g} of `{args.interpolate}`, {args.alpha:g} of the source, weight by weight."
        )
    if args.source.startswith("run:"):
        step, meta = checkpoint.read_meta(args.source.removeprefix("run:"))
        config = meta["config"]
        facts["Recipe"] = {"step": step, **{key: config[key] for key in _RECIPE if key in config}}
        facts["Data"] = config.get("data", "Those of the checkpoint this run was made from.")
    if args.metrics:
        facts["Metrics"] = args.metrics.read_text("utf-8")
    return facts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m naturel_jax.convert", description=__doc__)
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("folder", metavar="DST", type=Path, help="a new folder; an existing one is refused")
    parser.add_argument("--to", choices=sorted(export.WRITERS), default="hf", help="format of DST (default: hf)")
    parser.add_argument("--dtype", choices=sorted(export.DTYPES), default="float32", help="of the weights in DST")
    parser.add_argument("--size", type=int, help="resample the position embeddings for pictures of this many pixels")
    parser.add_argument("--interpolate", metavar="BASE", help="mix with this checkpoint, weight by weight")
    parser.add_argument("--alpha", type=float, default=0.5, help="share of SRC in the mix (default: 0.5)")
    parser.add_argument("--metrics", type=Path, help="a Markdown table for the model card")
    parser.add_argument(
        "--verify", action="store_true", help="compare embeddings with those both sides' own libraries compute"
    )
    return parser


def convert(args: argparse.Namespace) -> None:
    """Raises ValueError, FileNotFoundError and FileExistsError with what to do."""
    if args.folder.exists():
        raise FileExistsError(f"{args.folder} exists; choose another name or remove it")
    config, params, processor = weights.load(args.source)
    if args.interpolate:
        params = _interpolated(args.interpolate, config, params, args.alpha)
    if args.size:
        config, params = resize_positions(config, params, args.size)
        processor = dataclasses.replace(processor, size=args.size)
    export.save(args.folder, config, params, processor, form=args.to, dtype=args.dtype, facts=_facts(args))
    print(f"{args.folder}: written")
    if args.verify:
        _verify(args, config, params)


def _verify(args: argparse.Namespace, config: TwoTowerConfig, params: Params) -> None:
    """Prints how far embeddings by the libraries of both sides are from ours."""
    if not args.source.startswith("run:"):
        found = weights.find(args.source)
        if found.form in verify.PEERS:
            source_config, source_params, _ = weights.load(args.source)
            difference = verify.largest_difference(found.path, found.form, source_config, source_params)
            print(f"{args.source}: embeddings within {difference:.2e} of those its own library computes")
    difference = verify.largest_difference(args.folder, args.to, config, params)
    print(f"{args.folder}: embeddings within {difference:.2e} of those its own library computes")


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    try:
        convert(_parser().parse_args(argv))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
