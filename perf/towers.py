"""Images/s and captions/s of the towers, compared with transformers' and OpenCLIP's on the same machine.

    python -m perf.towers --preset clip-b32 --images 32 --captions 64 --train

Parameters are random: speed does not depend on them. Model FLOPs utilization is printed if the accelerator's peak is
known. On a GPU, OpenCLIP is measured with ``torch.compile`` too.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from naturel_jax.data.images import naflex
from naturel_jax.devices import hardware
from naturel_jax.models import flops
from naturel_jax.models.families import family_of
from naturel_jax.models.naflex import Patches
from naturel_jax.models.presets import PRESETS, preset
from naturel_jax.models.transformer import REMAT_POLICIES, Compute
from naturel_jax.models.two_tower import ImageConfig, Model, Params, TwoTowerConfig
from naturel_jax.weights import hf, verify
from tfds_naturel.common import cli

Inputs = dict[str, Any]  # tower -> normalized images or tokens [U, L]
Step = Callable[[], object]  # runs once and waits for its result


def seconds(step: Step, repeats: int) -> float:
    """Median time of ``step``, after one run to compile."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def our_steps(config: TwoTowerConfig, compute: Compute, inputs: Inputs, train: bool) -> dict[str, Step]:
    """tower -> a step on our model: embeddings, or with ``train`` the gradients of their sum."""
    model = Model(config, compute)
    params = jax.jit(model.init)(jax.random.key(0))
    encoders = {"image": model.encode_image, "text": model.encode_text}

    def step(tower: str) -> Step:
        encode, x = encoders[tower], jax.device_put(inputs[tower])

        def embed(part: Params, x: jax.Array) -> jax.Array:
            return encode({**params, tower: part}, x)

        run = jax.jit(jax.grad(lambda part, x: embed(part, x)[:, 0].sum()) if train else embed)
        return lambda: jax.block_until_ready(run(params[tower], x))

    return {tower: step(tower) for tower in encoders}


def peer_models(config: TwoTowerConfig) -> dict[str, Any]:
    """The peers' models of this config with random parameters; a peer that cannot represent it is left out, and the
    reason printed."""
    import transformers

    family = family_of(config)
    fields = hf.write_config(config, "float32", {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1})
    theirs = getattr(transformers, f"{family.hf_prefix}Config").from_dict(fields)
    models = {"transformers": transformers.AutoModel.from_config(theirs)}
    try:
        return models | {"OpenCLIP": verify.openclip_model(config)}
    except ValueError as error:
        print(f"OpenCLIP: left out, {error}")
        return models


def peer_steps(model: Any, dtype: str, inputs: Inputs, train: bool, compiled: bool) -> dict[str, Step]:
    """tower -> a step on a peer's model, on the GPU if torch finds one; ``compiled``: by ``torch.compile``."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).train(train)
    images = {name: tensor.to(device) for name, tensor in verify.transformers_images(inputs["image"]).items()}
    x: dict[str, Any] = {"image": images["pixel_values"], "text": torch.from_numpy(inputs["text"]).long().to(device)}
    if hasattr(model, "encode_image"):
        encoders = {"image": model.encode_image, "text": model.encode_text}
    else:
        encoders = {
            "image": lambda pixels: model.get_image_features(**images | {"pixel_values": pixels}).pooler_output,
            "text": lambda ids: model.get_text_features(input_ids=ids).pooler_output,
        }

    if compiled:
        encoders = {tower: torch.compile(encode) for tower, encode in encoders.items()}

    def step(tower: str) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"), torch.set_grad_enabled(train):
            z = encoders[tower](x[tower])
            z = z / z.norm(dim=-1, keepdim=True)
        if train:
            model.zero_grad()
            z[:, 0].sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return {tower: lambda tower=tower: step(tower) for tower in encoders}


def report(
    name: str, steps: dict[str, Step], config: TwoTowerConfig, args: argparse.Namespace, ours: Sequence[float] = ()
) -> list[float]:
    """Prints one line: rates, on a known accelerator the fraction of its peak, and how many times as fast ``ours`` are.
    Returns the rates."""
    counts = {"image": (args.images, "images"), "text": (args.captions, "captions")}
    each = {"image": flops.image_flops(config), "text": flops.text_flops(config)}
    peak = hardware.peak(jax.devices()[0].device_kind, args.dtype)
    cells, rates = [], []
    for tower, step in steps.items():
        count, noun = counts[tower]
        rate = count / seconds(step, args.repeats)
        share = f" ({100 * rate * each[tower] * (3 if args.train else 1) / peak:.1f} % of peak)" if peak else ""
        cells.append(f"{rate:10.1f} {noun}/s{share}")
        rates.append(rate)
    if ours:
        cells.append("; naturel_jax: " + ", ".join(f"{a / b:.2f}" for a, b in zip(ours, rates, strict=True)) + " times")
    print(f"{name:18}", *cells)
    return rates


def report_peers(config: TwoTowerConfig, args: argparse.Namespace, inputs: Inputs, ours: Sequence[float]) -> None:
    """Prints a line for each peer, and on a GPU one for OpenCLIP compiled."""
    import torch

    for name, model in peer_models(config).items():
        report(name, peer_steps(model, args.dtype, inputs, args.train, False), config, args, ours)
        if name == "OpenCLIP" and torch.cuda.is_available():
            report("OpenCLIP, compiled", peer_steps(model, args.dtype, inputs, args.train, True), config, args, ours)


def images(config: ImageConfig, count: int, rng: np.random.Generator) -> np.ndarray | Patches:
    """Normalized images; for a NaFlex model, photos of 640 x 480 pixels with as many patches as it has positions."""
    if not config.naflex:
        return rng.standard_normal((count, config.size, config.size, 3), np.float32)
    values_IPV = rng.standard_normal((count, config.grid**2, 3 * config.patch**2), np.float32)
    return Patches(values_IPV, np.tile(np.int32(naflex.grid(640, 480, config.patch, config.grid**2)), (count, 1)))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="clip-b32")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--train", action="store_true", help="forward and backward instead of forward")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--remat", choices=sorted(REMAT_POLICIES), default="none")
    parser.add_argument("--attention", choices=["xla", "cudnn"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ours_only", action="store_true", help="no peers; needs no torch")
    args = parser.parse_args(arguments)
    config = preset(args.preset)
    rng = np.random.default_rng(0)
    inputs = {
        "image": images(config.image, args.images, rng),
        "text": rng.integers(3, config.text.vocab - 1, (args.captions, config.text.context), np.int32),
    }
    if config.text.eos_id is not None:
        inputs["text"][:, -1] = config.text.eos_id
    kind = jax.devices()[0].device_kind
    print(f"{args.preset}, {args.images} images, {args.captions} captions, {args.dtype}, on {kind}")
    compute = Compute(args.dtype, args.remat, args.attention)
    ours = report("naturel_jax", our_steps(config, compute, inputs, args.train), config, args)
    if not args.ours_only:
        report_peers(config, args, inputs, ours)


if __name__ == "__main__":
    cli.run(main)
