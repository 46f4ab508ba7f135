"""The training step on a batch with NatuRel's captions, and the memory of the loss.

    python -m perf.objectives step
    python -m perf.objectives step --hard mined   # mined images and their captions instead of the sentinel
    python -m perf.objectives frozen              # with embeddings in place of a frozen tower's images or captions
    python -m perf.objectives memory              # bytes per device for 1 to 256 simulated devices

All rows of ``step`` compute the same loss from the same parameters, as the table shows: our batch, the same batch
expanded, and NegCLIP's published formula on the peers' towers, where every caption is a row of full length and the
sentinel is repeated for each image. On a GPU all of them run in bfloat16, and our model FLOPs utilization is printed.
"""

import argparse
import dataclasses
import functools
import statistics
import time
import timeit
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh

from naturel_jax.config import Config, Optim
from naturel_jax.data.batches.planner import MixturePart, Plan, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.items.items import Group, Items, collect
from naturel_jax.data.items.ragged import Ragged
from naturel_jax.data.text.processor import Processor, from_scratch
from naturel_jax.devices.sharding import AXES, BATCH_AXES, batch_sharding, batch_shards, make_mesh, shardings
from naturel_jax.losses.batch import Batch, CaptionLabels, ImageLabels
from naturel_jax.losses.objectives import sigmoid_loss, softmax_loss
from naturel_jax.losses.tiles import EXCHANGES, Layout
from naturel_jax.models import flops
from naturel_jax.models.families import FAMILIES
from naturel_jax.models.presets import PRESETS, preset
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig, normalize, of_pixels
from naturel_jax.training import optim, train
from naturel_jax.training.loss import Loss
from naturel_jax.training.observe import utilization
from naturel_jax.weights import hf, hub, openclip, processor_files, tables
from tfds_naturel.captions import bank
from tfds_naturel.common import cli

# Annotated pairs by relation in the training split of Open Images V4. Within a relation triplets follow Zipf's law.
RELATIONS = {
    "is": 194_142,
    "at": 111_493,
    "on": 31_604,
    "holds": 20_986,
    "plays": 8_932,
    "interacts_with": 3_756,
    "inside_of": 2_392,
    "wears": 836,
    "hits": 593,
    "under": 34,
}
NEGCLIP = Config()  # the defaults are the published loss and optimizer


def skewed_items(images: int, rng: np.random.Generator) -> Items:
    """Items with one triplet each, as frequent as in Open Images, and the bank's captions."""
    captions = bank.load()
    by_relation = {label: [t for t in captions if t.relation == label] for label in RELATIONS}
    triplets, weights = [], []
    for label, members in by_relation.items():
        share = 1 / np.arange(1, len(members) + 1)
        triplets += members
        weights += (RELATIONS[label] * share / share.sum()).tolist()
    chosen = rng.choice(len(triplets), images, p=np.array(weights) / sum(weights))

    groups = [Group.from_triplet(captions[triplet]) for triplet in triplets]
    return collect("skewed", ((str(n), [groups[number]]) for n, number in enumerate(chosen)))


def make_processor(config: TwoTowerConfig, texts: list[str]) -> Processor:
    """A processor with OpenAI's tokenizer if the vocabulary has its size, else one trained on ``texts``."""
    if config.text.vocab != FAMILIES["clip"].vocab:
        return from_scratch(config, texts)
    text = processor_files.openai_tokenizer(hub.clip_vocabulary(), config.text.context)
    return Processor(context=config.text.context, size=config.image.size, **text, **FAMILIES["clip"].pixels)


def planned(config: TwoTowerConfig, batch: int, hard: str, shards: int) -> tuple[Processor, Plan, np.ndarray]:
    """Processor, the plan of a batch with trimmed captions, and the tokens of the same captions at full length."""
    items = skewed_items(50 * batch, np.random.default_rng(0))
    processor = make_processor(config, items.texts)
    part = MixturePart(items, recipe("single_pair"))
    if hard == "mined":
        mined = Ragged.from_rows(np.random.default_rng(1).integers(0, len(items), (len(items), 4)).tolist())
        part = part._replace(hard_images=mined)
    options = {"batch_size": batch, "shards": shards, "seed": 0}
    plan, whole = (Planner([part], processor, trim_eos=eos, **options).plan(0) for eos in (config.text.eos_id, None))
    return processor, plan, whole.tokens


class Expanded(NamedTuple):
    """Rows of the published batch: images that have captions first, then the sentinels; positives, then negatives."""

    image_N: np.ndarray
    caption_M: np.ndarray
    own: int  # images that have captions


def expand(plan: Plan) -> Expanded:
    """The row in ``plan`` of every copy of an image and of a caption."""
    labels = plan.image_labels
    own = np.flatnonzero(labels.positives_IK[:, 0] >= 0)
    blank = np.flatnonzero((labels.positives_IK[:, 0] < 0) & (labels.mult_I > 0))
    blanks = np.repeat(blank, labels.mult_I[blank].astype(int))
    captions = np.concatenate([labels.positives_IK[own, 0], labels.negatives_IK[own, 0]])
    return Expanded(np.concatenate([own, blanks]), captions, len(own))


def expanded_batch(pixels: np.ndarray, tokens: np.ndarray, rows: Expanded) -> Batch:
    """The batch with a row for every copy."""
    images, captions = len(rows.image_N), len(rows.caption_M)
    ids = np.arange(captions, dtype=np.int32)
    own = np.where(np.arange(images) < rows.own, np.arange(images), -1).astype(np.int32)[:, None]
    none = np.full((images, 1), -1, np.int32)
    image_labels = ImageLabels(np.ones(images, np.float32), own, none, none)
    caption_labels = CaptionLabels(np.ones(captions, np.float32), ids, np.full((captions, 1), -2, np.int32))
    return Batch(pixels[rows.image_N], tokens[rows.caption_M], image_labels, caption_labels)


def our_step(
    model: Model, params: Params, processor: Processor, batch: Batch, mesh: Mesh, options: Config = NEGCLIP
) -> Callable[[], float]:
    """One training step of this project: loss, gradient, optimizer. Returns the loss before it."""
    tx = optim.make_optimizer(options.optim, params, optax.constant_schedule(options.optim.lr))
    state = train.make_state(jax.tree.map(jnp.copy, params), tx, mesh, ema=False)  # the step donates it
    loss = Loss(options, model, (processor.mean, processor.std), params, mesh)
    step = train.make_step(loss, tx, state, mesh, max_scale=model.config.max_scale, options=options.optim)
    batch = jax.device_put(batch, batch_sharding(mesh))

    def run() -> float:
        nonlocal state
        state, metrics = step(state, batch)
        return float(metrics["loss"])

    return run


def peers(config: TwoTowerConfig, params: Params) -> dict[str, Any]:
    """transformers' and OpenCLIP's models with these parameters."""
    import open_clip
    import torch
    import transformers

    special = {"bos_token_id": None, "eos_token_id": config.text.eos_id, "pad_token_id": 1}
    theirs = transformers.CLIPConfig.from_dict(hf.write_config(config, "float32", special))
    models = {
        "transformers": (transformers.CLIPModel(theirs), hf.TABLES["clip"]),
        "OpenCLIP": (open_clip.CLIP(**openclip.write_config(config)), openclip.TABLES["clip"]),
    }
    for model, table in models.values():
        arrays = tables.write(table, params)
        model.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}, strict=True)
    return {name: model for name, (model, _) in models.items()}


def peer_step(model: Any, batch: Batch, own: int, processor: Processor, dtype: str) -> Callable[[], float]:
    """One training step with the loss of NegCLIP's fork of OpenCLIP (arXiv 2210.01936), on the GPU if torch finds one.
    The first ``own`` images and captions are pairs."""
    import torch
    import torch.nn.functional as F

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).train()
    floats = np.array(normalize(batch.images, processor.mean, processor.std))
    pixels = torch.from_numpy(floats).permute(0, 3, 1, 2).contiguous().to(device)
    tokens = torch.from_numpy(batch.tokens).long().to(device)
    labels = torch.arange(own, device=device)
    options = NEGCLIP.optim
    betas = (options.b1, options.b2)
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, betas, options.eps, options.weight_decay)

    def embed() -> tuple[torch.Tensor, torch.Tensor]:
        if hasattr(model, "encode_image"):
            return model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
        out = model(pixel_values=pixels, input_ids=tokens)
        return out.image_embeds, out.text_embeds

    def run() -> float:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            image_ID, text_UD = embed()
        logits = model.logit_scale.exp() * image_ID.float() @ text_UD.float().T
        loss = (F.cross_entropy(logits[:own], labels) + F.cross_entropy(logits.T[:own], labels)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


class Result(NamedTuple):
    """First loss, and median times of a step."""

    name: str
    loss: float
    seconds: float
    cpu_seconds: float


def timed(name: str, step: Callable[[], float], repeats: int) -> Result:
    """Wall and processor time of ``step`` over ``repeats`` calls, after two warm-up calls."""
    first, _ = step(), step()
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return Result(name, first, *(statistics.median(column) for column in zip(*times, strict=True)))


def measure_steps(preset_name: str, batch_size: int, hard: str, repeats: int) -> list[Result]:
    """Times each implementation in turn, and prints the size of the batch."""
    config = preset(preset_name)
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    mesh = make_mesh({"data": -1})
    processor, plan, whole = planned(config, batch_size, hard, batch_shards(mesh))
    side = config.image.size
    pixels = np.random.default_rng(2).integers(0, 256, (len(plan.rows), side, side, 3), np.uint8)
    model = Model(config, Compute(dtype))
    params = jax.jit(model.init, out_shardings=shardings(model.shapes(), mesh))(jax.random.key(0))
    rows = expand(plan)
    expanded = expanded_batch(pixels, whole, rows)
    ours = Batch(pixels, plan.tokens, plan.image_labels, plan.caption_labels)
    print(
        f"{batch_size} items ({hard}), {dtype} on {jax.devices()[0].device_kind}. "
        f"Expanded: {len(rows.image_N)} images, {len(rows.caption_M)} captions of {whole.shape[1]} tokens; "
        f"ours: {len(ours.images)} images, {int((plan.caption_labels.mult_U > 0).sum())} captions "
        f"(padded to {len(ours.tokens)}) of {ours.tokens.shape[1]}"
    )
    flops_ours, flops_expanded = (
        flops.step(config, each.images_to_embed, *each.captions_to_embed).model for each in (ours, expanded)
    )
    ratio = flops_expanded / flops_ours
    print(f"model FLOPs of a step: ours {flops_ours:.2e}, expanded {flops_expanded:.2e}, {ratio:.2f} times as many")
    peer_models = peers(config, params)
    results = [
        timed("naturel_jax", our_step(model, params, processor, ours, mesh), repeats),
        timed("naturel_jax, expanded", our_step(model, params, processor, expanded, mesh), repeats),
    ]
    for name in list(peer_models):
        step = peer_step(peer_models.pop(name), expanded, rows.own, processor, dtype)
        results.append(timed(name, step, repeats))
    if used := utilization(flops_ours, results[0].seconds, jax.devices(), dtype):
        print(f"model FLOPs utilization of naturel_jax: {100 * used:.1f} %")
    return results


def print_steps(results: list[Result], batch: int) -> None:
    """The table; speeds are relative to the last row."""
    last = results[-1]
    print(f"{'':24}{'items/s':>9}{'items/CPU s':>13}{'times':>7}{'by CPU':>8}{'loss':>11}")
    for r in results:
        print(
            f"{r.name:24}{batch / r.seconds:9.3f}{batch / r.cpu_seconds:13.3f}{last.seconds / r.seconds:7.2f}"
            f"{last.cpu_seconds / r.cpu_seconds:8.2f}{r.loss:11.6f}"
        )


# ---- A frozen tower --------------------------------------------------------------------------------------------------


def measure_frozen(preset_name: str, batch_size: int, repeats: int) -> None:
    """Times, with either tower frozen, the step that embeds with it and the one that is given its embeddings, in turns;
    prints by how much the second is faster, beside what the FLOPs that it leaves out allow."""
    config, mesh = preset(preset_name), make_mesh({"data": -1})
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    processor, plan, _ = planned(config, batch_size, "sentinel", batch_shards(mesh))
    model, shape = Model(config, Compute(dtype)), (len(plan.rows), config.image.size, config.image.size, 3)
    params = jax.jit(model.init, out_shardings=shardings(model.shapes(), mesh))(jax.random.key(0))
    pixels = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    zimg_ID = jax.jit(of_pixels(model.encode_image, processor.mean, processor.std))(params, pixels)
    zcap_UD = jax.jit(model.encode_text)(params, plan.tokens)
    batch = Batch(pixels, plan.tokens, plan.image_labels, plan.caption_labels)
    sizes = f"{len(pixels)} images, {len(plan.tokens)} captions of {plan.tokens.shape[1]} tokens"
    print(f"{preset_name}, {dtype} on {jax.devices()[0].device_kind}: {sizes}")
    for tower, given in (("image", batch._replace(images=zimg_ID)), ("text", batch._replace(tokens=zcap_UD))):
        options = dataclasses.replace(NEGCLIP, optim=Optim(lr_multipliers=((f"{tower}/.*", 0.0),)))
        steps = [our_step(model, params, processor, each, mesh, options) for each in (batch, given)]
        losses = [(step(), step())[0] for step in steps]  # the first two warm up
        turns = np.array([[timeit.timeit(step, number=1) for step in steps] for _ in range(repeats)])
        (whole, rest), ratio = np.median(turns, axis=0), np.median(turns[:, 0] / turns[:, 1])
        forward, trained = (
            flops.step(config, each.images_to_embed, *each.captions_to_embed).forward for each in (batch, given)
        )
        allowed = 1 + (forward - trained) / (3 * trained)  # of the frozen tower, a step has the forward pass only
        print(f"{tower} tower frozen: loss {losses[0]:.6f}, with its embeddings {losses[1]:.6f}")
        print(f"  a step takes {whole:.3f} s, with its embeddings {rest:.3f} s: {ratio:.2f} times as fast")
        print(f"  the FLOPs left out allow {allowed:.2f} times, of which {ratio / allowed:.0%} is reached")


# ---- Memory ----------------------------------------------------------------------------------------------------------

LOCAL_IMAGES, LOCAL_CAPTIONS, WIDTH = 128, 256, 512


def loss_bytes(objective: str, devices: int, exchange: str) -> int:
    """Bytes that loss and gradients take on one device, from the compiler: arguments, results and temporaries."""
    grid = np.array(jax.devices()[:devices]).reshape(devices, 1, 1)
    mesh = Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))

    def rows(n: int, *shape: int, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((n * devices, *shape), dtype, sharding=batch_sharding(mesh))

    ids = functools.partial(rows, dtype=jnp.int32)
    images = ImageLabels(rows(LOCAL_IMAGES), ids(LOCAL_IMAGES, 1), ids(LOCAL_IMAGES, 1), ids(LOCAL_IMAGES, 8))
    captions = CaptionLabels(rows(LOCAL_CAPTIONS), ids(LOCAL_CAPTIONS), ids(LOCAL_CAPTIONS, 2))
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    layout = Layout(mesh, BATCH_AXES, exchange=exchange)

    def loss(zimg_ID, zcap_UD, scale, bias):
        if objective == "sigmoid":
            return lambda *labels: sigmoid_loss(zimg_ID, zcap_UD, scale, bias, *labels, layout=layout)
        return lambda *labels: softmax_loss(zimg_ID, zcap_UD, scale, *labels, layout=layout)

    step = jax.jit(jax.value_and_grad(lambda values, labels: loss(*values)(*labels)))
    values = rows(LOCAL_IMAGES, WIDTH), rows(LOCAL_CAPTIONS, WIDTH), scalar, scalar
    sizes: Any = step.lower(values, (images, captions)).compile().memory_analysis()
    occupied = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return occupied + sizes.temp_size_in_bytes + sizes.generated_code_size_in_bytes


def print_memory(counts: list[int]) -> None:
    """Prints one line for each number of devices."""
    print(f"{LOCAL_IMAGES} images and {LOCAL_CAPTIONS} captions of width {WIDTH} on each device.")
    print("MB per device (and relative to the first row):")
    columns = [(objective, name) for objective in ("sigmoid", "softmax") for name in EXCHANGES]
    print(f"{'devices':>8}" + "".join(f"{f'{o}, {name}':>22}" for o, name in columns))
    first: list[int] = []
    for devices in counts:
        sizes = [loss_bytes(objective, devices, name) for objective, name in columns]
        first = first or sizes
        cells = (f"{f'{size / 1e6:.2f} ({size / one:.2f})':>22}" for size, one in zip(sizes, first, strict=True))
        print(f"{devices:8}" + "".join(cells), flush=True)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    step = commands.add_parser("step")
    step.add_argument("--batch", type=int, default=32)
    step.add_argument("--hard", choices=["sentinel", "mined"], default="sentinel")
    step.add_argument("--repeats", type=int, default=3)
    clips = (name for name, config in PRESETS.items() if config.text.causal)  # NegCLIP's step is for CLIP models
    step.add_argument("--preset", choices=sorted(clips), default="clip-b32")
    frozen = commands.add_parser("frozen")
    frozen.add_argument("--batch", type=int, default=256)
    frozen.add_argument("--repeats", type=int, default=3)
    frozen.add_argument("--preset", choices=sorted(PRESETS), default="clip-b32")
    simulated = commands.add_parser("memory")
    simulated.add_argument("--devices", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    args = parser.parse_args(arguments)
    if args.command == "step":
        return print_steps(measure_steps(args.preset, args.batch, args.hard, args.repeats), args.batch)
    if args.command == "frozen":
        return measure_frozen(args.preset, args.batch, args.repeats)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(args.devices))
    print_memory(args.devices)


if __name__ == "__main__":
    cli.run(main)
