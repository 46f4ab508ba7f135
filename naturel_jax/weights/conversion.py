"""Converts a checkpoint to another format: ``naturel-convert`` with its flags parsed."""

import argparse
import dataclasses
from pathlib import Path

from naturel_jax import weights
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.data.text.processor import Processor
from naturel_jax.models.positions import resize_positions
from naturel_jax.models.two_tower import Params, TwoTowerConfig
from naturel_jax.storage import object_folders
from naturel_jax.weights import export, model_card, peft, processor_files, push, verify
from naturel_jax.weights.tables import flatten
from tfds_naturel.common import escape
from tfds_naturel.common.errors import UserError

_LARGEST = 1 << 14  # pixels of an image's side


def _interpolated(source: str, config: TwoTowerConfig, params: Params, alpha: float) -> Params:
    if not 0 <= alpha <= 1:
        raise UserError(f"--alpha is {alpha}, expected a number from 0 to 1")
    base = weights.load(source)
    if base.config != config:
        names = [field.name for field in dataclasses.fields(config)]
        different = [name for name in names if getattr(config, name) != getattr(base.config, name)]
        raise UserError(f"--interpolate {source} is a different model from SRC: {', '.join(different)} differ")
    return weights.interpolate(base.params, params, alpha)


def _trained_on(args: argparse.Namespace) -> TrainedOn:
    """Training images of SRC and, with ``--interpolate``, of BASE, where these have a record of them."""
    return TrainedOn.union([weights.trained_on(source) for source in (args.source, args.interpolate) if source])


def _about(args: argparse.Namespace) -> model_card.About:
    """The model card's statements about SRC."""
    about = model_card.about(args.source)
    if args.interpolate or args.size is not None:  # another model, which has not been evaluated
        about = dataclasses.replace(about, scores={})
    sections = dict(about.sections)
    if args.interpolate:
        sections["Interpolation"] = (
            f"{1 - args.alpha:g} of {escape.code(args.interpolate)}, {args.alpha:g} of {escape.code(args.source)}, "
            "weight by weight."
        )
    if args.drop_bias:
        sections["Logit bias"] = "Left out: the model was trained with one. It changes no ranking, only probabilities."
    return dataclasses.replace(about, sections=sections)


def convert(args: argparse.Namespace) -> None:
    """Runs the command. Raises UserError, FileNotFoundError or FileExistsError, whose messages say what to do."""
    _check(args)
    about = _about(args)
    adapter: weights.Adapter | None = None
    if args.to == "peft":
        (config, params, processor), adapter = _adapter(args)
        about = _of_adapter(about, adapter)
    else:
        config, params, processor = weights.load(args.source)
    if args.interpolate:
        params = _interpolated(args.interpolate, config, params, args.alpha)
    if args.size is not None:
        if args.size < config.image.patch:
            raise UserError(f"--size {args.size} is smaller than one patch of SRC: {config.image.patch} pixels")
        if args.size > _LARGEST:
            raise UserError(f"--size {args.size} is larger than {_LARGEST:,} pixels")
        config, params = resize_positions(config, params, args.size)
        processor = dataclasses.replace(processor, size=args.size)
        if processor.resize == "naflex":
            processor = dataclasses.replace(processor, resize="square", patch=None, max_patches=None)
    if args.drop_bias:
        config, params = _without_bias(args.source, config, params)
    loaded, options = weights.Loaded(config, params, processor), {"form": args.to, "dtype": args.dtype}
    with object_folders.made_locally(args.folder) as folder:
        options |= {"about": about, "repository": args.push or "", "trained_on": _trained_on(args), "adapter": adapter}
        export.save(folder, *loaded, **options)
        object_folders.publish(folder, args.folder, last=export.FORMS[args.to].last)
        print(f"wrote {args.folder}")
        if changes := _changes(processor, args.to):
            print(f"{args.folder}: its processor does as {export.FORMS[args.to].library} does: {changes}")
        if args.verify:
            _verify(args, folder, loaded)
        if args.push:
            _push(args, folder)


def _adapter(args: argparse.Namespace) -> tuple[weights.Loaded, weights.Adapter]:
    """The base and the adapter of SRC, for PEFT: with the base's name by ``--base``, and without a logit scale and bias
    that the base has as well. Raises UserError if SRC has no adapter, or ``--base`` is another model."""
    loaded, adapter = weights.unmerged(args.source)
    if adapter is None:
        raise UserError(f"{args.source} has no adapter to write for PEFT: train one with config.adapter.rank")
    if args.base:
        peft.check_base(args.source, args.base, adapter.digest, weights.load(args.base).params)
        adapter = adapter._replace(base=weights.absolute(args.base))
    left_out = {"logit_bias"} if args.drop_bias else set()
    left_out |= {
        name
        for name in ("logit_scale", "logit_bias")
        if name in loaded.params and loaded.params[name] == adapter.params[name]
    }
    return loaded, adapter._replace(params={name: x for name, x in adapter.params.items() if name not in left_out})


def _of_adapter(about: model_card.About, adapter: weights.Adapter) -> model_card.About:
    """``about`` with the adapter's base and what it consists of."""
    kind, _, name = adapter.base.partition(":")
    base = name.partition("@")[0] if kind == "hf" else about.base
    options = adapter.options
    how = f"LoRA of rank {options.rank}, alpha {options.alpha:g}{', rank-stabilized' * options.rslora}"
    layers = [path.removesuffix("/lora_a") for path in flatten(adapter.params) if path.endswith("/lora_a")]
    scalars = [f"`{x}`" for x in ("logit_scale", "logit_bias") if x in adapter.params]
    also = f", and its own {' and '.join(scalars)}" if scalars else ""
    text = f"{how}, of the layers {', '.join(map(escape.code, layers))}{also}."
    return dataclasses.replace(about, base=base, sections={**about.sections, "Adapter": text})


def _check(args: argparse.Namespace) -> None:
    """Raises early the errors that would otherwise appear only after the conversion."""
    export.check_new(args.folder)
    if args.base and args.to != "peft":
        raise UserError("--base is the name of an adapter's base in PEFT's format: it needs --to peft")
    if args.to == "peft" and (args.interpolate or args.size is not None):
        flag = "--interpolate" if args.interpolate else "--size"
        raise UserError(f"{flag} changes the base of the adapter, so --to peft cannot write it: merge it, with --to hf")
    if args.verify:
        verify.require(args.to)
    if args.push:
        push.check(args.push, dry_run=args.dry_run)
    elif args.private or args.dry_run:
        raise UserError(f"--{'private' if args.private else 'dry_run'} needs --push OWNER/NAME")


def _without_bias(source: str, config: TwoTowerConfig, params: Params) -> tuple[TwoTowerConfig, Params]:
    if config.init_bias is None:
        raise UserError(f"--drop_bias: {source} has no logit bias")
    params = {name: leaf for name, leaf in params.items() if name != "logit_bias"}
    return dataclasses.replace(config, init_bias=None), params


def _changes(processor: Processor, form: str) -> str:
    """How the processor of an export differs from ``processor``; '' if it does not."""
    ours, theirs = processor.to_dict(), processor_files.as_read(processor, form).to_dict()
    return ", ".join(f"{name} {ours[name]} -> {theirs[name]}" for name in ours if ours[name] != theirs[name])


def _verify(args: argparse.Namespace, folder: Path, ours: weights.Loaded) -> None:
    """Prints how SRC's and DST's own libraries differ from naturel_jax, and how DST (in ``folder``) preprocesses
    otherwise than SRC. Raises UserError if DST's library does not compute what naturel_jax does with DST."""
    images, captions = verify.example_images(), verify.example_captions()

    def compare(name: object, path: Path, form: str, loaded: weights.Loaded) -> str:
        if form not in verify.PEERS:
            print(f"{name}: not compared: {verify.WITHOUT_PEER[form]}")
            return ""
        comparison = verify.compare(path, form, loaded, images, captions)
        print(f"{name}: {comparison}")
        return "; ".join(comparison.problems)

    if not args.source.startswith("run:"):
        source = weights.find(args.source)
        compare(args.source, source.path, source.form, weights.load(args.source))
    processor = processor_files.as_read(ours.processor, args.to)
    params = ours.params if args.dtype == "float32" else weights.load(str(folder)).params  # rounded
    problems = compare(args.folder, folder, args.to, weights.Loaded(ours.config, params, processor))
    if changed := verify.preprocessed_otherwise(ours.processor, processor, images, captions):
        print(f"{args.folder}: preprocesses differently from {args.source}: {changed}")
    if problems:
        raise UserError(f"{args.folder}: {export.FORMS[args.to].library} does not reproduce this model: {problems}")


def _push(args: argparse.Namespace, folder: Path) -> None:
    """Uploads DST (``folder``) to the hub, or lists what would be uploaded."""
    if args.dry_run:
        files = push.files(folder)
        for name, size in files.items():
            print(f"  {size:>14,}  {name}")
        whose = "private" if args.private else "public"
        print(f"would upload {len(files)} files, {sum(files.values()):,} bytes, to {args.push} ({whose} if it is new)")
        print(f"to upload this folder: hf upload {args.push} {args.folder}{' --private' * args.private}")
    else:
        print(f"uploaded {args.folder} to {push.push(folder, args.push, private=args.private)}")
