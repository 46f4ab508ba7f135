"""The config of a run: every field with its default and meaning. Files in ``configs/`` change some of them."""

import math
import re
from fractions import Fraction

from ml_collections import ConfigDict


def base() -> ConfigDict:
    """Every field. Durations are strings with a unit: '500 steps', '5 epochs', '1e6 examples', '5%' (of the run)."""
    config = ConfigDict()
    config.name = "run"  # row of the table
    config.seed = 0
    # Where parameters, model sizes and processor come from: hf:OWNER/NAME, a folder, a file or run:WORKDIR;
    # or a preset (naturel_jax/models/presets.py) with random parameters.
    config.init = ""
    config.preset = ""
    config.base = ConfigDict()  # the run that init names: trained first where it is missing
    config.duration = "0 steps"  # 0: evaluate only

    config.data = ConfigDict()
    config.data.dir = "data"  # TFDS datasets; scenes are drawn into it where they are missing
    config.data.mixture = ConfigDict()  # name -> part(...)
    config.data.batch_size = 256  # images, without sentinels
    config.data.crop_scale = (0.9, 1.0)  # area of the random resized crop
    config.data.threads = 2
    config.data.workers = 0  # reading processes; 0 reads in threads only

    config.objective = ConfigDict()
    config.objective.name = "softmax"  # softmax or sigmoid
    config.objective.counting = "published"  # published, match_positive or match_ignore (naturel_jax/objectives.py)
    config.objective.hard_negative_weight = 1.0
    config.objective.label_smoothing = 0.0  # softmax only
    config.objective.ring = True  # captions travel around the devices; False: gathered by the compiler
    config.objective.tile = 4096  # captions of one tile on a device
    config.objective.chunks = 1  # gradient accumulation with the exact loss of the whole batch

    # NegCLIP's, as published.
    config.optim = ConfigDict()
    config.optim.lr = 1e-6
    config.optim.schedule = "cosine"  # cosine, linear (both to 0) or constant
    config.optim.warmup = "50 steps"
    config.optim.b1 = 0.9
    config.optim.b2 = 0.98
    config.optim.eps = 1e-6
    config.optim.weight_decay = 0.2
    config.optim.clip_norm = 0.0  # 0: none
    config.optim.lr_multipliers = ()  # ((pattern, factor), ...): first match of the parameter's path; 0 freezes
    config.optim.ema = 0.0  # decay of the moving average that is then evaluated; 0: none

    config.compute = ConfigDict()
    config.compute.dtype = "auto"  # of activations; auto: bfloat16 on accelerators, float32 on the CPU
    config.compute.remat = "none"  # none, dots or full
    config.compute.attention = ""  # xla, cudnn; empty: JAX chooses

    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})  # devices along each axis; -1: the rest

    config.eval = ConfigDict()
    config.eval.benchmarks = ("naturel", "naturel_unseen")  # at the end (naturel_jax/benchmarks/registry.py)
    config.eval.during = ("naturel",)  # some of those, on a schedule
    config.eval.every = "1 epoch"
    config.eval.naturel = "naturel/full"  # dataset whose test splits the NatuRel benchmarks read
    config.eval.benchmarks_dir = ""  # official files; empty: the twins drawn from the scenes world
    config.eval.batch_size = 256

    config.checkpoint = ConfigDict({"every": "500 steps", "keep": 2})
    config.log_every = "10 steps"
    config.tensorboard = True
    config.wandb = ""  # project; empty: off
    return config


def part(dataset: str, recipe: str, *, split: str = "train", weight: float = 1.0, hard_images: str = "") -> ConfigDict:
    """A part of ``config.data.mixture``: dataset and config under ``config.data.dir``, recipe
    (naturel_jax/data/recipes.py), weight, and a file of mined hard negative images (``python -m naturel_jax.mine``, or
    ``hard_images.parquet`` of naturel/negclip_tsv), which then take the sentinel's place."""
    fields = {"dataset": dataset, "split": split, "recipe": recipe, "weight": weight, "hard_images": hard_images}
    return ConfigDict(fields)


def scenes(config: ConfigDict, world: str) -> ConfigDict:
    """Makes ``config`` one for the drawn world ``world`` (``scenes`` or ``scenes_hard``), sized for two CPU cores: a
    tiny model, trained from nothing or from a base that was. Every benchmark of both tables has a twin there."""
    twins = ("vg_relation", "vg_attribution", "winoground", "sugarcrepe")
    config.eval.benchmarks = ("naturel", "naturel_unseen", *twins)
    config.eval.naturel = f"naturel/{world}"
    config.eval.every = "200 steps"
    config.data.batch_size = 64
    config.data.crop_scale = (0.8, 1.0)
    config.checkpoint.every = "200 steps"
    config.optim.update({"lr": 1e-3, "warmup": "5%", "weight_decay": 0.01, "clip_norm": 1.0})
    return config


def duration(text: str, *, batch_size: int, examples: int, total: int | None = None, field: str) -> int:
    """Steps that ``text`` means. ``examples`` in an epoch; ``total`` steps of the run, for percentages. Rounds up to
    whole steps.

    Raises ValueError that names ``field`` for anything but '<number> steps|epochs|examples' or '<number>%'.
    """
    match = re.fullmatch(r"\s*((?:\d+\.?\d*|\.\d+)(?:e\d+)?)\s*(step|epoch|example|%)s?\s*", str(text))
    steps_per = {  # fractions: 700 / 100 is 7 steps, 700 * 0.01 rounds up to 8
        "step": 1,
        "epoch": Fraction(examples, batch_size),
        "example": Fraction(1, batch_size),
        "%": None if total is None else Fraction(total, 100),
    }
    if not match or (rate := steps_per[match.group(2)]) is None:
        raise ValueError(
            f"config.{field} is {text!r}; expected a number and a unit: '500 steps', '5 epochs', '1e6 examples' or '5%'"
        )
    return math.ceil(Fraction(match.group(1)) * rate)
