"""The config of a run: every field with its default, allowed values and meaning.

Files in ``configs/`` start from ``base()``, an ``ml_collections.ConfigDict``, and change some of its fields; ``load``
checks the result up front and turns it into the frozen, typed ``Config`` that the rest of the program uses.
"""

import dataclasses
import pkgutil
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from naturel_jax.config import own_benchmarks
from naturel_jax.config.durations import is_duration
from naturel_jax.config.record_fields import Fields
from naturel_jax.config.settings import (
    AREA,
    NAME,
    ON_DISK,
    SIZE,
    Allowed,
    above,
    are_patterns,
    at_least,
    fraction,
    key_of,
    one_of,
    parse,
    section,
    setting,
    to_config_dict,
)
from naturel_jax.losses.objectives import OBJECTIVES
from naturel_jax.losses.tiles import EXCHANGES
from tfds_naturel.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class Part:
    """One source of ``config.data.mixture``."""

    dataset: str = setting("", "dataset under config.data.dir, or PREFIX:NAME for another source", NAME)
    recipe: str = setting(
        "", "which captions are sampled for an image", key_of("naturel_jax.data.batches.recipes:RECIPES")
    )
    split: str = setting("train", "split of the dataset", NAME)
    fields: Fields = section(Fields)
    weight: float = setting(1.0, "share of the mixture, relative to the other parts'", above(0))
    hard_images: str = setting(
        "",
        "Parquet file of mined hard negative images, used instead of the sentinel: from python -m naturel_jax.mine, or "
        "hard_images.parquet of naturel/negclip_tsv; empty: none",
    )


@dataclasses.dataclass(frozen=True)
class Data:
    dir: str = setting("data", "folder with the prepared datasets; missing scenes are drawn into it", may_change=True)
    cache_dir: str = setting(
        "",
        "folder for this host's copies of data in object stores (gs://, s3://), decoded images and embeddings; empty: "
        "in the user's cache folder",
        ON_DISK,
        may_change=True,
    )
    mixture: Mapping[str, Part] = setting({}, "training sources: name -> part(...)")
    max_bad: float = setting(
        0.01, "largest share of a source's records that may be bad; they are left out", fraction(), may_change=True
    )
    batch_size: int = setting(256, "images in a global batch, without sentinels", at_least(1))
    crop_scale: tuple[float, float] = setting(
        (0.9, 1.0), "area of the random resized crop; (1.0, 1.0): the largest centred square of each image", AREA
    )
    patch_dropout: float = setting(
        0.0,
        "share of the patches of each image that a training step leaves out, other ones each time (FLIP, arXiv "
        "2212.00794); 0: none",
        fraction(),
    )
    shrink_by: str = setting(
        "area",
        "how crops are shrunk; bilinear: five times as fast, and as near to Pillow's bicubic filter (above 1.5 times, "
        "area is used all the same)",
        one_of("area", "bilinear"),
    )
    cache: str = setting(
        "",
        "'decoded': decode each image once, into config.data.cache_dir, and crop from there; 'device': hold these "
        "images in the memory of the devices, spread over them; 'embeddings': embed each image once, with a frozen "
        "image tower and without random crops; empty: decode each time",
        one_of("", "decoded", "device", "embeddings"),
    )
    cache_captions: bool = setting(
        False, "embed each distinct caption once, with a frozen text tower and recipes that take captions as they are"
    )
    augment_on: str = setting(
        "host",
        "where cached images are cropped, resized and mirrored; device: bilinear, on the accelerator",
        one_of("host", "device"),
    )
    threads: int = setting(2, "threads that read and decode images", at_least(1), may_change=True)
    workers: int = setting(0, "processes that read and decode; 0: threads only", at_least(0), may_change=True)


@dataclasses.dataclass(frozen=True)
class Objective:
    name: str = setting("softmax", "loss", key_of("naturel_jax.losses.objectives:OBJECTIVES"))
    counting: str = setting("published", "how true captions are counted", key_of("naturel_jax.losses.batch:COUNTING"))
    hard_negative_weight: float = setting(1.0, "weight of captions sampled as negatives", at_least(0))
    label_smoothing: float = setting(0.0, "label smoothing of the softmax loss", fraction())
    exchange: str = setting(
        "ring",
        "how captions reach the images of other devices: around the ring, around it with half of each block in either "
        "direction, or gathered by the compiler; auto: what waits least and fits, and the ring where nothing is known",
        one_of(*EXCHANGES, "auto"),
        may_change=True,
    )
    tile: int = setting(4096, "captions per tile on a device", at_least(1))
    chunks: int = setting(1, "gradient accumulation with the exact loss of the whole batch", at_least(1))


@dataclasses.dataclass(frozen=True)
class Optim:
    """The defaults are NegCLIP's, as published (arXiv 2210.01936; betas, eps and decay are OpenCLIP's for ViT)."""

    name: str = setting("adamw", "optimizer", key_of("naturel_jax.training.optim:OPTIMIZERS"))
    lr: float = setting(1e-6, "peak learning rate", above(0))
    schedule: str = setting(
        "cosine", "learning-rate schedule after the warmup", key_of("naturel_jax.training.optim:SCHEDULES")
    )
    warmup: str = setting("50 steps", "linear warmup", is_duration())
    b1: float = setting(0.9, "decay of the first moment (adamw, lion), momentum (sgd)", fraction())
    b2: float = setting(0.98, "decay of the second moment (adamw, lion)", fraction())
    eps: float = setting(1e-6, "added to the square root of the second moment (adamw)", above(0))
    weight_decay: float = setting(0.2, "decoupled weight decay of matrices and embeddings", at_least(0))
    clip_norm: float = setting(0.0, "global gradient norm to clip to; 0: no clipping", at_least(0))
    lr_multipliers: tuple[tuple[str, float], ...] = setting(
        (),
        "learning-rate multipliers: the first pattern that matches a parameter's path, or in blocks also that of one "
        "block, such as image/transformer/blocks/3/mlp/up/kernel; 0 freezes",
        Allowed(lambda: "((pattern, factor), ...): regular expressions and numbers of at least 0", are_patterns),
    )
    ema: float = setting(0.0, "decay of the moving average, which is evaluated instead; 0: none", fraction())


@dataclasses.dataclass(frozen=True)
class Compute:
    dtype: str = setting(
        "auto",
        "dtype of activations; auto: bfloat16 on accelerators, float32 on the CPU",
        one_of("auto", "float32", "bfloat16"),
    )
    remat: str = setting(
        "auto",
        "which activations to recompute; auto: as few as fit the device's memory, and none on the CPU",
        key_of("naturel_jax.models.transformer:REMAT_POLICIES", "auto"),
        may_change=True,
    )
    attention: str = setting(
        "",
        "attention kernel; empty: JAX chooses; cudnn: on NVIDIA GPUs, in bfloat16; splash: for long sequences on TPUs",
        one_of("", "xla", "cudnn", "splash"),
    )
    unroll: bool = setting(
        False, "no loop over the blocks: small models are faster on CPUs, and compile longer", may_change=True
    )

    def dtype_on(self, backend: str) -> str:
        """The dtype on ``cpu``, ``gpu`` or ``tpu``: bfloat16 matrix products are slow on CPUs and fast elsewhere."""
        return ("float32" if backend == "cpu" else "bfloat16") if self.dtype == "auto" else self.dtype


@dataclasses.dataclass(frozen=True)
class Mesh:
    data: int = setting(-1, "devices that shard the batch; -1: the rest", SIZE)
    fsdp: int = setting(1, "devices that shard the batch and the parameters; -1: the rest", SIZE)
    tensor: int = setting(1, "devices that shard heads and MLPs; -1: the rest", SIZE)


@dataclasses.dataclass(frozen=True)
class Eval:
    benchmarks: tuple[str, ...] = setting(
        ("naturel", "naturel_unseen"),
        "benchmarks evaluated at the end, by name, or your own as KIND:PATH or NAME=KIND:PATH, such as pairs:my.jsonl",
        own_benchmarks.or_own(key_of("naturel_jax.benchmarks.registry:BENCHMARKS")),
    )
    during: Mapping[str, str] = setting(
        {"naturel": "1 epoch"},
        "benchmarks also evaluated during training, and how often; '0 steps': never",
        is_duration(),
    )
    fields: Mapping[str, own_benchmarks.Fields] = setting({}, "fields of your own benchmarks: name -> fields")
    naturel: str = setting("naturel/full", "dataset whose test splits the NatuRel benchmarks read", NAME)
    benchmarks_dir: str = setting("", "folder with the official files; empty: their twins drawn from the scenes world")
    batch_size: int = setting(256, "images or captions embedded at a time", at_least(1))


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    every: str = setting("500 steps", "interval between checkpoints; '0 steps': only at the end", is_duration())
    keep: int = setting(2, "newest checkpoints to keep", at_least(1))


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = setting("run", "the run's row in the tables", NAME)
    seed: int = setting(0, "random seed", at_least(0))
    init: str = setting(
        "", "checkpoint to start from: hf:OWNER/NAME, open_clip:OWNER/NAME, run:WORKDIR, base:NAME, a folder or a file"
    )
    preset: str = setting("", "or, random parameters of this size", key_of("naturel_jax.models.presets:PRESETS", ""))
    duration: str = setting("0 steps", "length of training; '0 steps' evaluates only", is_duration(percent=False))
    data: Data = section(Data)
    objective: Objective = section(Objective)
    optim: Optim = section(Optim)
    compute: Compute = section(Compute)
    mesh: Mesh = section(Mesh, may_change=True)
    eval: Eval = section(Eval, may_change=True)
    checkpoint: Checkpoint = section(Checkpoint, may_change=True)
    log_every: str = setting("10 steps", "interval between logged steps", is_duration(), may_change=True)
    profile: str = setting(
        "0 steps",
        "steps to trace into <workdir>/profile, after the first ten; '0 steps': none",
        is_duration(),
        may_change=True,
    )
    tensorboard: bool = setting(True, "write TensorBoard files", may_change=True)
    wandb: str = setting("", "Weights & Biases project; empty: off", may_change=True)
    bases: Mapping[str, "Config"] = setting(
        {},
        "runs that init can refer to as base:NAME; each lives in the folder NAME next to this run's",
        may_change=True,
    )


@dataclasses.dataclass(frozen=True)
class Suite:
    """Several runs in one command: the rows of a table, each in its own folder, in this order."""

    runs: Mapping[str, Config] = setting({}, "folder -> run")
    minutes: Mapping[str, float] = setting({}, "how long each run took", at_least(0))
    measured_on: str = setting("", "machine on which the minutes were measured")


def base() -> ConfigDict:
    """A config with every field at its default, for a config file to change."""
    return to_config_dict(Config())


def part(dataset: str, recipe: str, **fields: Any) -> ConfigDict:
    """A part of ``config.data.mixture``; see ``Part`` for the other fields."""
    return to_config_dict(Part(dataset, recipe, **fields))


def suite(runs: Mapping[str, ConfigDict], minutes: Mapping[str, float], measured_on: str) -> ConfigDict:
    """The config of several runs; see ``Suite``."""
    ordered = ConfigDict(dict(runs), sort_keys=False)  # the order of the table's rows
    return ConfigDict({"runs": ordered, "minutes": dict(minutes), "measured_on": measured_on})


def load(raw: ConfigDict) -> Config | Suite:
    """The typed config of one run, or of a suite, from the return value of a config file. Raises UserError."""
    if "runs" not in raw:
        return check(parse(Config, dict(raw.items())))
    result = parse(Suite, dict(raw.items()))
    for key, run in result.runs.items():
        check(run, f"config.runs.{key}")
    return result


def check(config: Config, path: str = "config") -> Config:
    """Returns ``config``. Raises UserError if fields that are valid on their own contradict each other."""
    if bool(config.init) == bool(config.preset):
        raise UserError(f"{path}.init is {config.init!r} and {path}.preset is {config.preset!r}: set one of them")
    if config.preset and not config.data.mixture:
        raise UserError(f"{path}.preset needs {path}.data.mixture: its tokenizer is trained on the captions")
    if config.data.augment_on == "device" and config.data.cache not in ("decoded", "device"):
        raise UserError(
            f"{path}.data.augment_on is 'device' and {path}.data.cache is {config.data.cache!r}: images are decoded on "
            f"the host; set {path}.data.cache to 'decoded' or 'device', or {path}.data.augment_on to 'host'"
        )
    if config.data.cache == "device" and config.data.augment_on != "device":
        raise UserError(
            f"{path}.data.cache is 'device' and {path}.data.augment_on is {config.data.augment_on!r}: images that the "
            f"devices hold are cropped there; set {path}.data.augment_on to 'device', or {path}.data.cache to 'decoded'"
        )
    if config.data.cache == "embeddings" and config.data.crop_scale != (1.0, 1.0):
        raise UserError(
            f"{path}.data.cache is 'embeddings' and {path}.data.crop_scale is {config.data.crop_scale}: random crops "
            f"have no embedding that could be kept; set {path}.data.crop_scale to (1.0, 1.0)"
        )
    if config.data.cache == "embeddings" and config.data.patch_dropout:
        raise UserError(
            f"{path}.data.cache is 'embeddings' and {path}.data.patch_dropout is {config.data.patch_dropout}: images "
            f"are embedded once, with all of their patches; set {path}.data.patch_dropout to 0.0"
        )
    if config.compute.attention == "cudnn" and config.compute.dtype == "float32":
        raise UserError(
            f"{path}.compute.attention is 'cudnn' and {path}.compute.dtype is 'float32', but cuDNN's attention takes "
            f"bfloat16; set {path}.compute.dtype to 'bfloat16', or {path}.compute.attention to ''"
        )
    if config.data.cache_captions:
        _check_recipes(config.data.mixture, f"{path}.data")
    own_benchmarks.check_names(config.eval.benchmarks, config.eval.fields, f"{path}.eval.fields")
    if unknown := sorted(config.eval.during.keys() - set(map(own_benchmarks.name_of, config.eval.benchmarks))):
        raise UserError(f"{path}.eval.during has {unknown}, which {path}.eval.benchmarks does not")
    options = config.objective
    smooths = OBJECTIVES[options.name].smooths_labels and options.counting != "match_ignore"
    if options.label_smoothing and not smooths:
        where = f"{path}.objective.name {options.name!r} and counting {options.counting!r}"
        raise UserError(
            f"{path}.objective.label_smoothing is {options.label_smoothing}: not defined for {where}; set 0"
        )
    if [config.mesh.data, config.mesh.fsdp, config.mesh.tensor].count(-1) > 1:
        raise UserError(f"{path}.mesh has -1 ('the rest of the devices') on more than one axis; give the others a size")
    for name, base_config in config.bases.items():
        check(base_config, f"{path}.bases.{name}")
    return config


def _check_recipes(mixture: Mapping[str, Part], path: str) -> None:
    """Raises UserError for a recipe whose captions cannot be embedded before the run trains."""
    recipes = pkgutil.resolve_name("naturel_jax.data.batches.recipes:RECIPES")  # loads the data libraries
    for name, part in mixture.items():
        if recipes[part.recipe].makes_captions:
            raise UserError(
                f"{path}.cache_captions is True, but {path}.mixture.{name}.recipe is {part.recipe!r}, which makes "
                "captions while the run trains, so they cannot be embedded before; use a recipe that takes captions as "
                f"they are, such as 'one_pair', or set {path}.cache_captions to False"
            )
