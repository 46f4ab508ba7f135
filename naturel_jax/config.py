"""The config of a run: every field with its default and meaning. Files in ``configs/`` change some of them."""

import re

from ml_collections import ConfigDict


def base() -> ConfigDict:
    """Every field. Durations are strings with a unit: '500 steps', '5 epochs', '1e6 examples', '5%' (of the run)."""
    return ConfigDict(
        {
            "name": "run",  # row of the table
            "seed": 0,
            # Where parameters, model sizes and processor come from: hf:OWNER/NAME, a folder or file, run:WORKDIR; or a preset with random parameters.
            "init": "",
            "preset": "",
            "duration": "0 steps",
            "data": {
                "dir": "data",  # holds TFDS datasets; scenes are drawn into it, Open Images must have been built (python -m tfds_naturel.build)
                # Each part: dataset config and split under dir, recipe (naturel_jax/data/recipes.py), weight in the mixture.
                "mixture": (
                    ConfigDict({"dataset": "naturel/scenes", "split": "train", "recipe": "positives", "weight": 1.0}),
                ),
                "batch_size": 256,
                "crop_scale": (0.9, 1.0),  # area of the random resized crop
                "threads": 2,
                "workers": 0,  # reading processes; 0 reads in threads only
            },
            "objective": {
                "name": "softmax",  # softmax or sigmoid
                "counting": "published",  # published, match_positive or match_ignore (naturel_jax/objectives.py)
                "hard_negative_weight": 1.0,
                "label_smoothing": 0.0,  # softmax only
                "ring": True,  # captions travel around the devices; False: one block, gathered by the compiler
                "tile": 4096,  # captions of one tile on a device
                "chunks": 1,  # gradient accumulation with the exact loss of the whole batch
            },
            "optim": {
                "lr": 1e-6,
                "schedule": "cosine",
                "warmup": "50 steps",
                "b1": 0.9,
                "b2": 0.98,
                "eps": 1e-6,
                "weight_decay": 0.2,
                "clip_norm": 0.0,  # 0: none
                "lr_multipliers": (),  # ((pattern, factor), ...): first match of the parameter's path; 0 freezes
                "ema": 0.0,  # decay of the moving average that is then evaluated; 0: none
            },
            "compute": {
                "dtype": "auto",
                "remat": "none",
                "attention": "",
            },  # auto: bfloat16 on accelerators, float32 on the CPU
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "log_every": "10 steps",
            "checkpoint": {"every": "500 steps", "keep": 2},
            "eval": {
                "every": "1 epoch",
                "benchmarks": ("naturel",),
                "benchmarks_dir": "",  # layout in README; empty: the generated twins of the scenes world
                "naturel_split": "test",
                "batch_size": 256,
            },
            "tensorboard": True,
            "wandb": "",  # project name; empty: off
        }
    )


def duration(text: str, *, batch_size: int, examples: int, total: int | None = None, field: str) -> int:
    """Steps that ``text`` means. ``examples`` in an epoch; ``total`` steps of the run, for percentages. Rounds up to whole steps.

    Raises ValueError that names ``field`` for anything but '<number> steps|epochs|examples' or '<number>%'.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*(step|epoch|example|%)s?\s*", str(text))
    steps_per = {
        "step": 1.0,
        "epoch": examples / batch_size,
        "example": 1 / batch_size,
        "%": None if total is None else total / 100,
    }
    if not match or (rate := steps_per[match.group(2)]) is None:
        raise ValueError(
            f"config.{field} is {text!r}; expected a number and a unit: '500 steps', '5 epochs', '1e6 examples' or '5%'"
        )
    return -int(-float(match.group(1)) * rate // 1)
