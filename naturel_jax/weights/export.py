"""Writes checkpoints: folders that transformers, OpenCLIP and big_vision read as their own, and that we read back bit
for bit.

Configs, tokenizer and image-processor files are written here, not by the libraries' ``save_pretrained``: an export has
the same bytes whether or not the libraries are installed, and needs neither them nor torch. Tests compare every file
with what the libraries' own classes make of it (tests/weights/test_exports_files.py).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath

from naturel_jax import storage
from naturel_jax.checkpoints import checkpoint, checkpoint_meta, manifest
from naturel_jax.data.seen import trained_on as trained_on_lib
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.data.text.processor import Processor
from naturel_jax.models.families import family_of
from naturel_jax.models.two_tower import Params, TwoTowerConfig
from naturel_jax.storage import once
from naturel_jax.weights import big_vision, hf, model_card, openclip, peft, processor_files, tables
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import new_folder

DTYPES = {"float32": np.float32, "bfloat16": jnp.bfloat16, "float16": np.float16}
# modules.json: how sentence-transformers before version 6 finds CLIP's two towers.
_SENTENCE_TRANSFORMERS = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.CLIPModel"}]
_TORCH = {"format": "pt"}  # transformers refuses safetensors files without this

Arrays = dict[str, np.ndarray]


class Options(NamedTuple):
    """``dtype`` of the weights: a key of ``DTYPES``. ``home``: the finished folder. ``repository``: its future name on
    the hub, or ''. ``trained_on``: the images that the model was trained on, which a run's checkpoint notes.
    ``adapter``: what ``peft`` writes."""

    dtype: str
    home: Path
    repository: str
    trained_on: TrainedOn
    adapter: peft.Adapter | None


def save(
    folder: Path,
    config: TwoTowerConfig,
    params: Params,
    processor: Processor,
    *,
    form: str,
    dtype: str = "float32",
    about: model_card.About | None = None,
    repository: str = "",
    trained_on: TrainedOn | None = None,
    adapter: peft.Adapter | None = None,
) -> None:
    """Writes ``folder`` in the format ``form`` (``hf``, ``openclip``, ``big_vision``, ``run``: ours, or ``peft``: the
    ``adapter`` alone), weights in ``dtype`` (a key of ``DTYPES``), with a model card.

    The folder's processor is ``processor_files.as_read``: it preprocesses as the format's library does.
    ``about``: what the card says about where the model comes from. ``repository``: the name on the hub under which the
    folder will be used, if it will. ``trained_on``: the images that the model was trained on. The folder appears only
    once it is complete. Raises FileExistsError, and UserError if the format has no equivalent model.
    """
    about = about or model_card.About(folder.name, str(folder))
    processor = processor_files.as_read(processor, form)
    options = Options(dtype, Path(folder).absolute(), repository, trained_on or TrainedOn(), adapter)
    card = model_card.render(about, config, processor, form=form, dtype=dtype, repository=repository)
    check_new(epath.Path(folder))
    with new_folder(folder) as work:
        FORMS[form].write(work, config, processor, params, options)
        processor_files.write(work, processor, family_of(config))
        listed = once.checksums(work)
        if options.trained_on:
            options.trained_on.save(epath.Path(work / trained_on_lib.FOLDER))
            listed[processor_files.RECORD] = options.trained_on.checksum()
        storage.write_json(epath.Path(work / processor_files.CHECKSUMS), listed)
        (work / model_card.FILE).write_text(card, "utf-8")


def check_new(folder: epath.Path) -> None:
    """Raises FileExistsError if ``folder`` exists."""
    if storage.exists(folder):
        raise FileExistsError(f"{folder} exists; choose another name or remove it")


def _arrays(table: list[tables.Rule], params: Params, dtype: str) -> Arrays:
    """The format's tensors in ``dtype``. Raises UserError for values out of its range."""
    arrays = {}
    for key, array in tables.write(table, params).items():
        with np.errstate(over="ignore"):
            arrays[key] = array.astype(DTYPES[dtype])
        if not np.isfinite(arrays[key].astype(np.float32)).all():
            raise UserError(f"{key} has values of up to {np.abs(array).max():.3g}, which {dtype} cannot hold")
    return arrays


def _write_hf(folder: Path, config: TwoTowerConfig, processor: Processor, params: Params, options: Options) -> None:
    family = family_of(config)
    if config.image.naflex and not processor.is_bpe:
        raise UserError(
            "transformers reads every tokenizer of a Siglip2Model as Gemma's, a BPE, which this model's is not; export "
            "to run instead, or at a fixed resolution (--size)"
        )
    fields = hf.write_config(config, options.dtype, processor_files.special_ids(processor, family))
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
    arrays = _arrays(hf.TABLES[family.name], params, options.dtype)
    _save_tensors(folder / "model.safetensors", arrays, _TORCH)
    if family.name == "clip":
        (folder / "modules.json").write_text(json.dumps(_SENTENCE_TRANSFORMERS, indent=2) + "\n", "utf-8")


def _write_openclip(
    folder: Path, config: TwoTowerConfig, processor: Processor, params: Params, options: Options
) -> None:
    home = f"hf-hub:{options.repository}" if options.repository else f"local-dir:{options.home}"
    model = openclip.write_config(config, home)
    if trunk := openclip.write_trunk(config):
        (folder / openclip.TIMM_FILE).write_text(json.dumps(trunk, indent=2) + "\n", "utf-8")
    if processor.clean != "openclip":  # "openclip" stands for OpenCLIP's own tokenizer
        cleaning = "canonicalize" if processor.clean == "openclip_siglip" else "whitespace"
        # For a local folder, OpenCLIP only checks that a name is set, and reads the tokenizer beside the config.
        name = options.repository or folder.name
        model["text_cfg"] |= {"hf_tokenizer_name": name, "tokenizer_kwargs": {"clean": cleaning}}
    fields = {"model_cfg": model, "preprocess_cfg": processor_files.openclip_preprocess(processor)}
    (folder / openclip.CONFIG_FILE).write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
    arrays = _arrays(openclip.TABLES[family_of(config).name], params, options.dtype)
    _save_tensors(folder / "open_clip_model.safetensors", arrays, _TORCH)


def _write_big_vision(
    folder: Path, config: TwoTowerConfig, processor: Processor, params: Params, options: Options
) -> None:
    big_vision.check_config(config)
    arrays = _arrays(big_vision.table(False, False), params, options.dtype)
    np.savez(folder / "checkpoint.npz", **{f"params/{key}": a for key, a in arrays.items()})  # type: ignore[arg-type]


def _write_run(folder: Path, config: TwoTowerConfig, processor: Processor, params: Params, options: Options) -> None:
    if options.dtype != "float32":
        raise UserError(f"a run stores its parameters in float32, not {options.dtype}; leave out --dtype")
    trained_on = options.trained_on.meta() if options.trained_on else None
    meta = checkpoint_meta.make_meta({}, config, processor, trained_on)
    checkpoints = checkpoint.Checkpoints(str(folder), keep=1)
    checkpoints.save(0, {"params": params}, meta, wait=True)
    checkpoints.close()


def _write_peft(folder: Path, config: TwoTowerConfig, processor: Processor, params: Params, options: Options) -> None:
    adapter = options.adapter
    if adapter is None:
        raise UserError("there is no adapter to write: train one (config.adapter.rank), or export the model to hf")
    fields = peft.write_config(config, adapter)
    (folder / peft.CONFIG_FILE).write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
    arrays = _arrays(peft.table(family_of(config), params), adapter.params, options.dtype)
    metadata = {**_TORCH, peft.DIGEST: adapter.digest}
    _save_tensors(folder / peft.WEIGHTS_FILE, arrays, metadata)


def _save_tensors(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes a safetensors file. Raises OSError if the disk does not take it, where the library has its own error."""
    path.touch()
    mode = path.stat().st_mode  # the user's umask decides; safetensors' own files are for the owner alone
    try:
        safetensors.numpy.save_file(arrays, path, metadata=metadata)
        if path.stat().st_mode != mode:  # some disks have no modes
            path.chmod(mode)
    except safetensors.SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def obstacles(config: TwoTowerConfig) -> dict[str, str]:
    """Library -> why a model of these sizes cannot be exported to it; empty if transformers and OpenCLIP take it."""
    found = {}
    for library, check in (("transformers", hf.check_config), ("OpenCLIP", openclip.write_config)):
        try:
            check(config)
        except UserError as error:
            found[library] = str(error)
    return found


class Form(NamedTuple):
    """``library`` reads the folders that ``write`` fills. ``last``: the file without which no reader takes one for
    complete, uploaded last to an object store."""

    library: str
    last: str
    write: Callable[[Path, TwoTowerConfig, Processor, Params, Options], None]


FORMS = {
    "hf": Form("transformers", "config.json", _write_hf),
    "openclip": Form("OpenCLIP", openclip.CONFIG_FILE, _write_openclip),
    "big_vision": Form("big_vision", "checkpoint.npz", _write_big_vision),
    "run": Form("naturel_jax", f"checkpoints/0/{manifest.NAME}", _write_run),
    "peft": Form("PEFT", peft.CONFIG_FILE, _write_peft),
}
