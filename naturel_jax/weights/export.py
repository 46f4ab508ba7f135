"""Writes checkpoints: folders that transformers, OpenCLIP and big_vision read as their own, and that we read back bit
for bit."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from naturel_jax import checkpoint, checkpoint_meta
from naturel_jax.data.processor import Processor
from naturel_jax.models.families import family_of
from naturel_jax.models.transformer import TransformerConfig
from naturel_jax.models.two_tower import Params, TwoTowerConfig
from naturel_jax.weights import big_vision, hf, openclip, processor_files, tables
from tfds_naturel import escape
from tfds_naturel.errors import UserError

DTYPES = {"float32": np.float32, "bfloat16": jnp.bfloat16, "float16": np.float16}
_TORCH = {"format": "pt"}  # transformers refuses safetensors files without this

Arrays = dict[str, np.ndarray]
Writer = Callable[[Path, TwoTowerConfig, Processor, Params, str], None]


def save(
    folder: Path,
    config: TwoTowerConfig,
    params: Params,
    processor: Processor,
    *,
    form: str,
    dtype: str = "float32",
    facts: Mapping[str, object],
) -> None:
    """Writes ``folder`` in the format ``form`` (``hf``, ``openclip``, ``big_vision``, or ``run``: ours), weights in
    ``dtype``, with a model card.

    ``facts`` are the card's sections (recipe, data, metrics...) by title. The folder appears only once it is complete.
    Raises FileExistsError, and UserError if the format has no equivalent model.
    """
    with _folder(folder) as work:
        WRITERS[form](work, config, processor, params, dtype)
        processor_files.write(work, processor, family_of(config))
        (work / "README.md").write_text(_card(folder.name, config, form, dtype, facts), "utf-8")


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that is moved to ``folder`` at the end, and removed if something fails.

    It already has the final name, since OpenCLIP's config refers to the tokenizer by its folder's name.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; choose another name or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    parent = folder.with_name(f".{folder.name}.{os.getpid()}")
    work = parent / folder.name
    work.mkdir(parents=True)
    try:
        yield work
        work.rename(folder)
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def _arrays(table: list[tables.Rule], params: Params, dtype: str) -> Arrays:
    """The format's tensors in ``dtype``. Raises UserError for values out of its range."""
    arrays = {}
    for key, array in tables.write(table, params).items():
        with np.errstate(over="ignore"):
            arrays[key] = array.astype(DTYPES[dtype])
        if not np.isfinite(arrays[key].astype(np.float32)).all():
            raise UserError(f"{key} has values of up to {np.abs(array).max():.3g}, which {dtype} cannot hold")
    return arrays


def _write_hf(folder: Path, config: TwoTowerConfig, processor: Processor, params: Params, dtype: str) -> None:
    family = family_of(config)
    fields = hf.write_config(config, dtype, processor_files.special_ids(processor, family))
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
    arrays = _arrays(hf.TABLES[family.name], params, dtype)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata=_TORCH)


def _write_openclip(folder: Path, config: TwoTowerConfig, processor: Processor, params: Params, dtype: str) -> None:
    model = openclip.write_config(config)
    if processor.clean != "openclip":  # which means OpenCLIP's own tokenizer
        cleaning = "canonicalize" if processor.clean == "openclip_siglip" else "whitespace"
        model["text_cfg"] |= {"hf_tokenizer_name": folder.name, "tokenizer_kwargs": {"clean": cleaning}}
    fields = {"model_cfg": model, "preprocess_cfg": processor_files.openclip_preprocess(processor)}
    (folder / openclip.CONFIG_FILE).write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
    arrays = _arrays(openclip.TABLES[family_of(config).name], params, dtype)
    safetensors.numpy.save_file(arrays, folder / "open_clip_model.safetensors", metadata=_TORCH)


def _write_big_vision(folder: Path, config: TwoTowerConfig, processor: Processor, params: Params, dtype: str) -> None:
    big_vision.check_config(config)
    arrays = _arrays(big_vision.table(False, False), params, dtype)
    np.savez(folder / "checkpoint.npz", **{f"params/{key}": a for key, a in arrays.items()})  # type: ignore[arg-type]


def _write_run(folder: Path, config: TwoTowerConfig, processor: Processor, params: Params, dtype: str) -> None:
    if dtype != "float32":
        raise UserError(f"a run stores its parameters in float32, not {dtype}; leave out --dtype")
    checkpoints = checkpoint.Checkpoints(str(folder), keep=1)
    checkpoints.save(0, {"params": params}, checkpoint_meta.make_meta({}, config, processor), wait=True)
    checkpoints.close()


WRITERS: dict[str, Writer] = {
    "hf": _write_hf,
    "openclip": _write_openclip,
    "big_vision": _write_big_vision,
    "run": _write_run,
}

_USE = {
    "hf": "`transformers.AutoModel.from_pretrained(folder)` and `AutoProcessor.from_pretrained(folder)`",
    "openclip": "`open_clip.create_model_and_transforms('local-dir:' + folder)`",
    "big_vision": "`model_init = 'folder/checkpoint.npz'` of a `proj.image_text.two_towers` config",
    "run": "`config.init = 'run:folder'`",
}


def _card(name: str, config: TwoTowerConfig, form: str, dtype: str, facts: Mapping[str, object]) -> str:
    """README.md with the hub's front matter."""
    library = {"hf": "transformers", "openclip": "open_clip", "run": "naturel_jax"}.get(form, form)
    image, text = config.image, config.text
    lines = [
        "---",
        f"library_name: {library}",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [naturel_jax, compositionality, vision-language]",
        "---",
        f"# {escape.markdown(name)}",
        f"A {family_of(config).name.upper()} model, written by naturel_jax. Use it with naturel_jax or with",
        f"{_USE[form]}.",
        "",
        f"- image tower: {image.size} pixels, patches of {image.patch}, {_tower(image.transformer)}",
        f"- text tower: {text.context} tokens of {text.vocab}, {_tower(text.transformer)}",
        f"- embeddings of {config.embed_dim}; weights in {dtype}",
    ]
    for title, content in facts.items():
        block = content if isinstance(content, str) else f"```json\n{json.dumps(content, indent=2)}\n```"
        lines += ["", f"## {title}", block]
    return "\n".join(lines) + "\n"


def _tower(config: TransformerConfig) -> str:
    sizes = f"{config.depth} blocks of width {config.width}, {config.heads} heads, MLP {config.mlp_dim}"
    return f"{sizes}, {config.activation}"
