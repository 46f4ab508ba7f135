"""Images/s and texts/s of the towers, beside transformers' and OpenCLIP's own on the same machine.

    python perf/towers.py --preset clip-b32 --images 32 --texts 64 --train

Random weights: speed does not depend on them. Model FLOP utilisation is printed where the accelerator's peak is known.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from naturel_jax.models.families import family_of
from naturel_jax.models.presets import PRESETS, preset
from naturel_jax.models.transformer import REMAT_POLICIES, Compute, TransformerConfig
from naturel_jax.models.two_tower import Model, TwoTowerConfig
from naturel_jax.weights import hf, openclip

# Dense bfloat16 FLOP/s of one chip, from the makers' data sheets, by jax.Device.device_kind.
PEAKS = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def transformer_flops(config: TransformerConfig, length: int) -> float:
    """FLOPs of one sequence forward: matrix products only, 2 per multiply-add, attention in full."""
    weights = 4 * config.width**2 + 2 * config.width * config.mlp_dim
    return config.depth * length * (2 * weights + 4 * length * config.width)


def tower_flops(config: TwoTowerConfig, tower: str) -> float:
    """FLOPs of one image or text, forward."""
    if tower == "text":
        return transformer_flops(config.text.transformer, config.text.context)
    image = config.image
    patches = image.grid**2
    embed = 2 * patches * 3 * image.patch**2 * image.transformer.width
    return embed + transformer_flops(image.transformer, patches + (image.pool == "cls"))


def seconds(step: Callable[[], object], repeats: int) -> float:
    """Median time of ``step``, which waits for its own result, after one run that compiles."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def our_steps(config: TwoTowerConfig, compute: Compute, inputs: dict, train: bool) -> dict[str, Callable[[], object]]:
    """tower -> a step on our model: embeddings, or with ``train`` the gradients of their sum."""
    model = Model(config, compute)
    params = jax.jit(model.init)(jax.random.key(0))
    encoders = {"image": model.encode_image, "text": model.encode_text}

    def step(tower: str) -> Callable[[], object]:
        encode, x = encoders[tower], jax.device_put(inputs[tower])
        if train:
            run = jax.jit(jax.grad(lambda part, x: encode({**params, tower: part}, x)[:, 0].sum()))
        else:
            run = jax.jit(lambda part, x: encode({**params, tower: part}, x))
        return lambda: jax.block_until_ready(run(params[tower], x))

    return {tower: step(tower) for tower in encoders}


def peer_models(config: TwoTowerConfig) -> dict[str, object]:
    """The peers' own models of this config with random weights; a peer without one is left out, with the reason
    printed."""
    import open_clip
    import transformers

    family = family_of(config)
    fields = hf.write_config(config, "float32", {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1})
    theirs = getattr(transformers, f"{family.hf_prefix}Config").from_dict(fields)
    models = {"transformers": transformers.AutoModel.from_config(theirs)}
    try:
        fields = openclip.write_config(config)
    except ValueError as error:
        print(f"OpenCLIP: left out, {error}")
        return models
    fields.pop("custom_text", None)
    return models | {"OpenCLIP": getattr(open_clip, family.openclip_class)(**fields)}


def peer_steps(model, dtype: str, inputs: dict, train: bool) -> dict[str, Callable[[], object]]:
    """tower -> a step on a peer's model, on the GPU where torch sees one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).train(train)
    x = {
        "image": torch.from_numpy(inputs["image"]).permute(0, 3, 1, 2).contiguous().to(device),
        "text": torch.from_numpy(inputs["text"]).long().to(device),
    }
    if hasattr(model, "encode_image"):
        encoders = {"image": model.encode_image, "text": model.encode_text}
    else:
        encoders = {
            "image": lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
            "text": lambda ids: model.get_text_features(input_ids=ids).pooler_output,
        }

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


def report(name: str, steps: dict[str, Callable[[], object]], config: TwoTowerConfig, args: argparse.Namespace) -> None:
    """One line: rates and, on a known accelerator, the share of its peak."""
    counts = {"image": args.images, "text": args.texts}
    cells = []
    for tower, step in steps.items():
        rate = counts[tower] / seconds(step, args.repeats)
        cell = f"{rate:10.1f} {tower}s/s"
        if peak := PEAKS.get(jax.devices()[0].device_kind):
            flops = rate * tower_flops(config, tower) * (3 if args.train else 1)
            cell += f" ({100 * flops / peak:.1f} % of peak)"
        cells.append(cell)
    print(f"{name:14}", *cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="clip-b32")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--train", action="store_true", help="forward and backward instead of forward")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--remat", choices=sorted(REMAT_POLICIES), default="none")
    parser.add_argument("--attention", choices=["xla", "cudnn"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ours-only", action="store_true", help="no peers; needs no torch")
    args = parser.parse_args()
    config = preset(args.preset)
    rng = np.random.default_rng(0)
    side = config.image.size
    inputs = {
        "image": rng.standard_normal((args.images, side, side, 3), np.float32),
        "text": rng.integers(3, config.text.vocab - 1, (args.texts, config.text.context), np.int32),
    }
    if config.text.eos_id is not None:
        inputs["text"][:, -1] = config.text.eos_id
    print(f"{args.preset}, {args.images} images, {args.texts} texts, {args.dtype}, on {jax.devices()[0].device_kind}")
    report(
        "naturel_jax",
        our_steps(config, Compute(args.dtype, args.remat, args.attention), inputs, args.train),
        config,
        args,
    )
    if not args.ours_only:
        for name, model in peer_models(config).items():
            report(name, peer_steps(model, args.dtype, inputs, args.train), config, args)


if __name__ == "__main__":
    main()
