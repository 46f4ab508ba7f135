"""Every field of a run's config, with its default, allowed values and meaning."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from naturel_jax.config import own_benchmarks
from naturel_jax.config.durations import is_duration
from naturel_jax.config.record_fields import Fields
from naturel_jax.config.settings import (
    AREA,
    NAME,
    ON_DISK,
    SIZE,
    TITLE,
    Allowed,
    above,
    are_patterns,
    at_least,
    between,
    fraction,
    key_of,
    one_of,
    section,
    setting,
)


@dataclasses.dataclass(frozen=True)
class Part:
    """One source of ``config.data.mixture``."""

    dataset: str = setting("", "dataset under config.data.dir, or PREFIX:NAME for another source", NAME)
    recipe: str = setting(
        "", "which captions are sampled for an image", key_of("naturel_jax.data.batches.recipes:RECIPES")
    )
    split: str = setting("train", "split of the dataset, or a slice of it, as in TFDS: train[:1000], train[10%:]", NAME)
    fields: Fields = section(Fields)
    weight: float = setting(1.0, "share of the mixture, relative to the other parts'", above(0))
    hard_images: str = setting(
        "",
        "Parquet file of mined hard negative images, used instead of the sentinel: from python -m naturel_jax.mine, or "
        "hard_images.parquet of naturel/negclip_tsv; empty: none",
    )
    hard_images_every: int = setting(
        0,
        "steps after which hard images are mined again, with the weights that the run then has, by naturel-mine "
        "--watch WORKDIR; a multiple of config.checkpoint.every; 0: never",
        at_least(0),
    )
    hard_captions: str = setting(
        "own",
        "captions of a hard image; own: what the recipe samples for it (NegCLIP); exchanged: the false caption of the "
        "image that it was mined for, which is true of it, and as a negative the true one (TripletCLIP, ConCLIP; see "
        "config.objective.terms.exchanged_images)",
        one_of("own", "exchanged"),
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
    turns: str = setting(
        "images",
        "what the parts of the mixture take turns with, by weight: images, so that a batch has some of each, or whole "
        "batches, each of one part",
        one_of("images", "batches"),
    )
    max_bad: float = setting(
        0.01, "largest share of a source's records that may be bad; they are left out", fraction(), may_change=True
    )
    batch_size: int = setting(256, "images in a global batch, without sentinels", at_least(1))
    crop_scale: tuple[float, float] = setting(
        (0.9, 1.0), "area of the random resized crop; (1.0, 1.0): the largest centred square of each image", AREA
    )
    mirror: bool = setting(
        True, "mirror half of the images; never one whose captions or facts have the English words left or right"
    )
    patch_dropout: float = setting(
        0.0,
        "share of each image's patches that a training step drops, drawn again each time (FLIP, arXiv 2212.00794); 0: "
        "none",
        fraction(),
    )
    max_patches: int = setting(
        0,
        "patches that an image of a NaFlex model is resized to at most, with its aspect ratio, also in evaluation and "
        "in exports; 0: as many as ``init`` says, or of a new model, as its positions",
        between(0, 1 << 14),
    )
    shrink_by: str = setting(
        "area",
        "how crops are shrunk; bilinear: five times as fast, and as close to Pillow's bicubic filter (crops shrunk by "
        "more than 1.5 times use area anyway)",
        one_of("area", "bilinear"),
    )
    cache: str = setting(
        "",
        "'decoded': decode each image once, into config.data.cache_dir, and crop from there; 'embeddings': embed each "
        "image once, with a frozen image tower and without random crops; empty: decode each time",
        one_of("", "decoded", "embeddings"),
    )
    cache_captions: bool = setting(
        False, "embed each distinct caption once, with a frozen text tower and recipes that take captions as they are"
    )
    threads: int = setting(2, "threads that read and decode images", between(1, 1024), may_change=True)
    workers: int = setting(0, "processes that read and decode; 0: threads only", between(0, 1024), may_change=True)


@dataclasses.dataclass(frozen=True)
class Objective:
    name: str = setting("softmax", "loss", key_of("naturel_jax.losses.objectives:OBJECTIVES"))
    counting: str = setting("published", "how true captions are counted", key_of("naturel_jax.losses.batch:COUNTING"))
    hard_negative_weight: float = setting(1.0, "weight of captions sampled as negatives", at_least(0))
    label_smoothing: float = setting(0.0, "label smoothing of the softmax loss", fraction())
    calibrate_bias: bool = setting(
        False, "begin with the logit bias that minimizes the loss of the first batch, as a bias that is new always does"
    )
    terms: Mapping[str, Any] = setting(
        {},
        "terms added to the loss: name -> weight and options, as in {'own_foils': {'weight': 0.5}}",
        kinds="naturel_jax.losses.terms:TERMS",
    )
    exchange: str = setting(
        "auto",
        "how captions reach the images of other devices: around the ring, around it with half of each block in each "
        "direction, or gathered by the compiler; auto: the one that waits least and fits, or ring if that is not known",
        key_of("naturel_jax.losses.tiles:EXCHANGES", "auto"),
        may_change=True,
    )
    tile: int = setting(4096, "captions per tile on a device", at_least(1))
    chunks: int = setting(
        1,
        "parts of the batch that are embedded one after the other, with the loss of the whole (GradCache)",
        at_least(1),
    )

    @property
    def needs_base(self) -> bool:
        """Whether a term compares with the parameters that training started from, or with their average."""
        return any(term.needs_base for term in self.terms.values())

    @property
    def of_average(self) -> bool:
        """Whether that is their average."""
        return any(term.of_average for term in self.terms.values())


@dataclasses.dataclass(frozen=True)
class Optim:
    """The defaults are NegCLIP's, as published (arXiv 2210.01936; betas, eps and decay are OpenCLIP's for ViT)."""

    name: str = setting(
        "adamw",
        "optimizer; schedule_free_adamw: with the schedule constant; prodigy: with lr 1 and weight_decay 0",
        key_of("naturel_jax.training.optim:OPTIMIZERS"),
    )
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
    skip_above: float = setting(
        0.0,
        "leave out steps whose gradient norm is above this many times the running mean, after the first ten; 0: none",
        Allowed(lambda: "0 or a number above 1", lambda x: x == 0 or 1 < x < math.inf),
    )
    lr_multipliers: tuple[tuple[str, float], ...] = setting(
        (),
        "learning-rate multipliers: the first pattern that matches a parameter's path, or in blocks also that of one "
        "block, such as image/transformer/blocks/3/mlp/up/kernel; 0 freezes",
        Allowed(
            lambda: (
                "((pattern, factor), ...): numbers of at least 0 and regular expressions of at most five "
                "repetitions, none of a group that has a repetition or alternatives itself"
            ),
            are_patterns,
        ),
    )
    layer_decay: float = setting(
        1.0,
        "factor of the learning rate for each block further from a tower's end, embeddings one more than the first "
        "block (BEiT, timm); on top of lr_multipliers; 1: none",
        Allowed(lambda: "a number above 0, at most 1", lambda x: 0 < x <= 1),
    )
    ema: float = setting(0.0, "decay of the moving average, which is evaluated instead; 0: none", fraction())


@dataclasses.dataclass(frozen=True)
class Adapter:
    """LoRA (arXiv 2106.09685): adapters of linear layers, trained in place of the model's own parameters."""

    rank: int = setting(0, "rank of the adapters; 0: none, the model itself is trained", between(0, 1 << 12))
    alpha: float = setting(16.0, "an adapter's product is multiplied by alpha / rank", above(0))
    rslora: bool = setting(False, "multiply by alpha / sqrt(rank) instead (rsLoRA, arXiv 2312.03732)")
    targets: tuple[str, ...] = setting(
        (".*/attn/(query|value)",),
        "patterns of the layers that get an adapter, such as image/transformer/blocks/attn/query; others: attn/key, "
        "attn/out, mlp/up, mlp/down; image/head/mlp/up, image/projection; a tower without any is frozen",
        Allowed(
            lambda: "regular expressions of at most five repetitions, none of a group that has a repetition itself",
            lambda patterns: bool(patterns) and are_patterns((pattern, 0) for pattern in patterns),
        ),
    )

    @property
    def scale(self) -> float:
        """What the product of an adapter's matrices is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


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
        "attention kernel; empty: JAX's default, today xla; cudnn: on NVIDIA GPUs, in bfloat16; splash: for long "
        "sequences on TPUs",
        one_of("", "xla", "cudnn", "splash"),
    )
    unroll: bool = setting(
        False, "unroll the loop over the blocks: small models run faster on CPUs, but compile longer", may_change=True
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
        own_benchmarks.or_user_defined(key_of("naturel_jax.benchmarks.registry:BENCHMARKS")),
    )
    during: Mapping[str, str] = setting(
        {"naturel": "1 epoch"},
        "benchmarks also evaluated during training, and how often; '0 steps': never",
        is_duration(),
    )
    interpolate: tuple[float, ...] = setting(
        (),
        "at the end, also evaluate the run's parameters interpolated with those it started from, at these shares of "
        "the run's (WiSE-FT, arXiv 2109.01903), such as (0, 0.25, 0.5, 0.75, 1)",
        Allowed(
            lambda: "numbers from 0 to 1, each once", lambda x: len(set(x)) == len(x) and all(0 <= y <= 1 for y in x)
        ),
    )
    interpolate_by: str = setting("", "score that names the best share, such as naturel/complex; empty: none is named")
    fields: Mapping[str, own_benchmarks.BenchmarkFields] = setting({}, "fields of your own benchmarks: name -> fields")
    naturel: str = setting("naturel/full", "dataset whose test splits the NatuRel benchmarks read", NAME)
    benchmarks_dir: str = setting("", "folder with the official files; empty: their twins drawn from the scenes world")
    batch_size: int = setting(256, "images or captions embedded at a time", between(1, 1 << 20))


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    every: str = setting("500 steps", "interval between checkpoints; '0 steps': only at the end", is_duration())
    keep: int = setting(2, "newest checkpoints to keep", at_least(1))


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = setting("run", "the run's row in the tables", TITLE)
    seed: int = setting(0, "random seed", between(0, (1 << 63) - 1))
    init: str = setting(
        "",
        "checkpoint to start from: hf:OWNER/NAME, open_clip:OWNER/NAME, run:WORKDIR, run:WORKDIR@STEP, "
        "run:WORKDIR@best:SCORE, run:WORKDIR@interpolated:SHARE, base:NAME, a folder or a file",
    )
    preset: str = setting("", "or, random parameters of this size", key_of("naturel_jax.models.presets:PRESETS", ""))
    duration: str = setting(
        "0 steps",
        "length of training; '0 steps' evaluates only; a run can become longer later",
        is_duration(percent=False),
        may_change=True,
    )
    data: Data = section(Data)
    objective: Objective = section(Objective)
    optim: Optim = section(Optim)
    adapter: Adapter = section(Adapter)
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
    wandb_group: str = setting(
        "", "the run's group in Weights & Biases; a sweep names it after itself and the setting", may_change=True
    )
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
