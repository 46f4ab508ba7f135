"""What to write instead, for flags of other libraries; and where a config file went wrong."""

import re
import traceback
from collections.abc import Container

# Flags of OpenCLIP, big_vision and transformers' Trainer, with _ for -, and what says the same here.
_DURATION = "--config.duration='5 epochs'"
_LR, _WORKDIR, _BATCH = "--config.optim.lr=1e-6", "--workdir=runs/mine", "--config.data.batch_size=256"
_ANY_LOGITS = "no flag: no device computes another's logits, whatever --config.objective.exchange"
_UNLOCKED = "--config.optim.lr_multipliers=\"(('{0}/transformer/blocks/(9|10|11)/.*', 1.0), ('{0}/.*', 0.0))\""
FOREIGN = {
    "accum_freq": "--config.objective.chunks=2",
    "batch_size": _BATCH,
    "beta1": "--config.optim.b1=0.9",
    "beta2": "--config.optim.b2=0.98",
    "csv_caption_key": "--config.data.mixture.main.fields.positives=title",
    "csv_img_key": "--config.data.mixture.main.fields.image=filepath",
    "dataset": "--config.data.mixture.main.dataset=csv:my.csv",
    "dataset_type": "--config='finetune:webdataset:shards/{00..99}.tar'; csv: and others say the type, too",
    "epochs": _DURATION,
    "eps": "--config.optim.eps=1e-6",
    "force_patch_dropout": "--config.data.patch_dropout=0.5",
    "gather_with_grad": _ANY_LOGITS,
    "grad_checkpointing": "--config.compute.remat=full",
    "grad_clip_norm": "--config.optim.clip_norm=1.0",
    "imagenet_val": "--config.eval.benchmarks='(\"zeroshot\",)'",
    "learning_rate": _LR,
    "local_loss": _ANY_LOGITS,
    "lock_image": "--config.optim.lr_multipliers=\"(('image/.*', 0.0),)\"",
    "lock_image_unlocked_groups": _UNLOCKED.format("image"),
    "lock_text": "--config.optim.lr_multipliers=\"(('text/.*', 0.0),)\"",
    "lock_text_unlocked_layers": _UNLOCKED.format("text"),
    "log_every_n_steps": "--config.log_every='10 steps'",
    "logs": _WORKDIR,
    "lr": _LR,
    "lr_scheduler": "--config.optim.schedule=cosine",
    "max_steps": "--config.duration='500 steps'",
    "model": "--config.init=hf:openai/clip-vit-base-patch32, or --config.preset for random parameters",
    "model_name_or_path": "--config.init=hf:openai/clip-vit-base-patch32",
    "name": f"--config.name=mine, and {_WORKDIR}",
    "num_train_epochs": _DURATION,
    "output_dir": _WORKDIR,
    "per_device_train_batch_size": f"{_BATCH}, of all devices together",
    "precision": "--config.compute.dtype=bfloat16",
    "pretrained": "--config.init=open_clip:OWNER/NAME, a folder or a file",
    "report_to": "--config.wandb=PROJECT, or --config.tensorboard=True",
    "resume": "the same command again, which continues a run",
    "save_frequency": "--config.checkpoint.every='1 epoch'",
    "save_steps": "--config.checkpoint.every='500 steps'",
    "seed": "--config.seed=0",
    "siglip": "--config.objective.name=sigmoid",
    "total_steps": "--config.duration='500 steps'",
    "train_data": "--config=finetune:csv:my.csv, or --config.data.mixture.main.dataset=csv:my.csv",
    "warmup": "--config.optim.warmup='50 steps'",
    "warmup_steps": "--config.optim.warmup='50 steps'",
    "wandb": "--config.wandb=PROJECT",
    "wandb_project_name": "--config.wandb=PROJECT",
    "wd": "--config.optim.weight_decay=0.2",
    "weight_decay": "--config.optim.weight_decay=0.2",
    "workers": "--config.data.threads=8",
    "zeroshot_frequency": "config.eval.during = {'zeroshot': '1 epoch'} in a config file",
}
_LIBRARIES = ("site-packages", "<frozen", "/lib/python")  # in paths of code that is not the user's


def for_flag(name: str) -> str:
    """'; write, for example, ...' for a flag of another library, else ''."""
    here = FOREIGN.get(name.replace("-", "_"))
    return f"; write, for example, {here}" if here else ""


def for_field(name: str, fields: Container[str]) -> str:
    """``for_flag`` for a field that is named as such a flag is, if a config with ``fields`` has what it says to
    write."""
    hint = for_flag(name.removeprefix("optim."))
    return hint if all(field in fields for field in re.findall(r"--config\.([\w.]+)", hint)) else ""


def of_config_file(error: BaseException, path: str) -> str | None:
    """'FILE line N: Kind: message' for an error, or its cause, that code of the config file at ``path`` raised; None
    for any other.

    If a library raised it, the line is that of the user's code which called it. ml_collections wraps some errors in
    one with the whole traceback in its message.
    """
    chained: BaseException | None = error
    while chained is not None:
        if isinstance(chained, SyntaxError):
            return f"{chained.filename} line {chained.lineno}: SyntaxError: {chained.msg}"
        frames = traceback.extract_tb(chained.__traceback__)
        if ours := [n for n, frame in enumerate(frames) if frame.filename == path]:
            called = [frame for frame in frames[ours[0] :] if not any(part in frame.filename for part in _LIBRARIES)]
            message = " ".join(f"{type(chained).__name__}: {chained}".split())
            return f"{called[-1].filename} line {called[-1].lineno}: {message}"
        chained = chained.__context__
    return None
