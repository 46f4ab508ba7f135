"""Reads checkpoints: Hugging Face folders, OpenAI's and OpenCLIP's files, big_vision's npz, and our own runs.

A source is ``hf:owner/name`` (or ``hf:owner/name@revision``), ``open_clip:owner/name`` (OpenCLIP's files, if a hub
repository also holds transformers'), ``run:workdir`` (the newest checkpoint of one of our runs; ``run:workdir@step``
``run:workdir@best:score`` and ``run:workdir@interpolated:share`` are others, see ``runs.py``), a folder, a file, or
``preset:file`` for a file that does not say what model it holds (NegCLIP's: ``negclip-b32:negclip.pth``). Workdirs,
folders and files may be in an object store.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from naturel_jax import storage
from naturel_jax.data.items.records import ADDRESS
from naturel_jax.data.seen import trained_on as trained_on_lib
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.data.text.processor import Processor
from naturel_jax.models import adapters
from naturel_jax.models.families import Pixels, family_of
from naturel_jax.models.presets import PRESETS
from naturel_jax.models.two_tower import Model, Params, TextConfig, TwoTowerConfig
from naturel_jax.storage import staging
from naturel_jax.storage.object_stores import in_store
from naturel_jax.weights import big_vision, hf, hub, openclip, peft, processor_files, runs, tables
from naturel_jax.weights.tables import Rule, Shape
from naturel_jax.weights.tensors import Tensors, open_npz, open_safetensors, open_sharded
from naturel_jax.weights.torch_files import open_torch
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import check_regular

ShardingFor = Callable[[str, Shape], jax.sharding.Sharding]
_DEPTH = 8  # models of which each is the base of the next

_HF_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_OPENCLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_OPENERS: dict[str, Callable[[Path], Tensors]] = {
    ".safetensors": open_safetensors,
    ".bin": open_torch,
    ".pt": open_torch,
    ".pth": open_torch,
    ".npz": open_npz,
}
_COMPANIONS = (".json", ".md", ".model", ".txt")  # suffixes of files that say how to use weights


class Loaded(NamedTuple):
    """A checkpoint in memory: model sizes, parameters (float32) and processor."""

    config: TwoTowerConfig
    params: Params
    processor: Processor


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A foreign checkpoint whose config, processor and tensor names are known and whose tensors have not been read yet.

    ``form``: ``hf``, ``openclip``, ``openai``, ``big_vision``, or ``peft`` for an
    ``adapter``, whose base has the table and tensors; ``path``: the folder or file that the library of that form reads.
    """

    form: str
    path: Path
    config: TwoTowerConfig
    processor: Processor
    table: list[Rule]
    tensors: Tensors
    adapter: peft.Found | None = None

    def load(self, sharding_for: ShardingFor | None) -> tuple[Loaded, peft.Adapter | None]:
        """Reads the tensors, and those of the adapter. Raises UserError listing every key that is missing, left over or
        of the wrong shape."""

        def place(path: str, array: np.ndarray) -> jax.Array:
            if sharding_for is None:
                return jax.device_put(array)
            sharding = sharding_for(path, array.shape)
            return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

        shapes = Model(self.config).shapes()
        tables.check_keys(self.tensors.name, self.table, shapes, self.tensors.shapes)
        params = tables.read(self.tensors.name, self.table, shapes, self.tensors.get, place)
        adapter = self.adapter and self.adapter.read(self.config, params, place)
        return Loaded(self.config, params, self.processor), adapter


def load(source: str, *, sharding_for: ShardingFor | None = None, depth: int = 0) -> Loaded:
    """The checkpoint at ``source``; parameters are float32, whatever the file's dtype.

    ``sharding_for(path, shape)`` places each parameter on devices as soon as it is read, so that a host never holds
    more than one parameter twice. An adapter is merged with its base. Raises UserError naming the file, what is wrong
    with it, and what was expected; FileNotFoundError if there is no such file or folder. ``depth``: number of models
    that are loaded to load this one as their base.
    """
    loaded, adapter = unmerged(source, sharding_for=sharding_for, depth=depth)
    if adapter is not None:
        loaded = loaded._replace(params=adapters.apply(loaded.params, adapter.params, adapter.options.scale))
    name = source.removeprefix("run:")
    if name == source or (share := runs.share(name)) is None:
        return loaded
    start = started_from(name, sharding_for=sharding_for, depth=depth + 1)
    return loaded._replace(params=interpolate(start, loaded.params, share))


def started_from(name: epath.PathLike, *, sharding_for: ShardingFor | None, depth: int = 0) -> Params:
    """The parameters that the run ``name`` started from. Raises what ``load`` raises, and UserError if they were
    random, or what is there now has another digest."""
    if not (base := runs.base(name)):
        raise UserError(f"run:{name}: the run began with random parameters; there is nothing to interpolate with")
    params = load(base, sharding_for=sharding_for, depth=depth).params
    if (expected := runs.base_digest(name)) and (found := adapters.digest(params)) != expected:
        raise UserError(
            f"run:{name} started from {base} with parameters of digest {expected}, but {base} now has {found}: restore "
            "the model that it started from"
        )
    return params


def is_computed(source: str) -> bool:
    """Whether ``load`` computes the parameters, merging an adapter or interpolating, so that their bits depend on the
    device. Raises what ``load`` raises."""
    if source.startswith("run:"):
        name = source.removeprefix("run:")
        return runs.share(name) is not None or bool(runs.read_meta(name)[1].get("adapter"))
    return (_fetched(source)[0] / peft.CONFIG_FILE).is_file()


def interpolate(base: Params, tuned: Params, alpha: float) -> Params:
    """``(1 - alpha) * base + alpha * tuned`` for every parameter (WiSE-FT, Wortsman et al., arXiv 2109.01903, eq. 1). A
    logit bias that only ``tuned`` has is kept. Raises UserError if the two trees differ in shape.
    """
    base = {name: tuned[name] for name in ("logit_bias",) if name in tuned} | base
    shapes = [{path: leaf.shape for path, leaf in tables.flatten(tree).items()} for tree in (base, tuned)]
    if shapes[0] != shapes[1]:
        different = sorted(p for p in shapes[0].keys() | shapes[1].keys() if shapes[0].get(p) != shapes[1].get(p))
        raise UserError(f"the two models cannot be interpolated: {', '.join(different[:5])} differ in shape")
    return jax.tree.map(lambda a, b: (1 - alpha) * a + alpha * b, base, tuned)


def unmerged(
    source: str, *, sharding_for: ShardingFor | None = None, depth: int = 0
) -> tuple[Loaded, peft.Adapter | None]:
    """The checkpoint at ``source`` as ``load`` reads it, but an adapter beside its base: of a run with
    ``config.adapter``, or in PEFT's format. Raises also UserError for an adapter whose base is not there, or is another
    model than it was trained on."""
    if depth > _DEPTH:
        raise UserError(f"{source} is the base of {_DEPTH} models that are each the base of the next: is one its own?")
    if not source.startswith("run:"):
        return find(source).load(sharding_for)
    model, params, processor, adapter = runs.load_run(source.removeprefix("run:"), sharding_for=sharding_for)
    if adapter is None:
        return Loaded(model, params, processor), None
    try:
        base = load(adapter.base, sharding_for=sharding_for, depth=depth + 1)
    except (UserError, OSError) as error:
        raise UserError(f"{source} is an adapter of {adapter.base}, which cannot be loaded: {error}") from error
    peft.check_base(source, adapter.base, adapter.digest, base.params)
    return Loaded(model, base.params, processor), adapter


def find(source: str) -> Foreign:
    """The foreign checkpoint at ``source``, fetched and identified but not read. Raises what ``load`` raises."""
    path, prefix = _fetched(source)
    if (path / peft.CONFIG_FILE).is_file():
        return _open_adapter(path)
    if path.is_dir():
        return _open_folder(path, prefer_openclip=prefix == "open_clip")
    return _open_file(path, PRESETS.get(prefix))


def trained_on(source: str) -> TrainedOn:
    """The images that the model at ``source`` was trained on, as a run and its exports record them; empty without a
    record. Raises what ``load`` raises, and UserError for a damaged record."""
    if source.startswith("run:"):
        return runs.trained_on(source.removeprefix("run:"))
    path, _ = _fetched(source)
    folder = path if path.is_dir() else path.parent
    own = trained_on_lib.load(epath.Path(folder / trained_on_lib.FOLDER))
    expected = processor_files.listed_record(folder)
    if expected and (own is None or own.checksum() != expected):
        what = "is missing" if own is None else "is another model's"
        raise UserError(
            f"{folder / trained_on_lib.FOLDER} {what}: {processor_files.CHECKSUMS} says that the model was trained on "
            "images, which scores leave out; copy the folder again from where the model was exported"
        )
    own = own or TrainedOn()
    if not (path / peft.CONFIG_FILE).is_file():
        return own
    adapter = peft.find(path)
    _fetched_base(path, adapter)
    return TrainedOn.union([own, trained_on(adapter.base)])


def absolute(source: str) -> str:
    """``source`` as another folder can name it: a path of this machine is made absolute."""
    prefix, colon, rest = source.partition(":")
    if colon and prefix in ("hf", "open_clip"):
        return source
    known = f"{prefix}:" if colon and prefix in ("run", *PRESETS) else ""
    return known + os.fspath(storage.absolute(epath.Path(rest if known else source).expanduser()))


def _fetched(source: str) -> tuple[Path, str]:
    """The folder or file of ``source`` on this host, and its prefix."""
    prefix, colon, rest = source.partition(":")
    if colon and prefix in ("hf", "open_clip"):
        return hub.fetch(prefix, rest), prefix
    known = prefix if colon and prefix in PRESETS else ""
    path = local(rest if known else source)
    if not path.exists():
        what = "an address, which is not downloaded" if ADDRESS.match(source) else "no such file or folder"
        raise FileNotFoundError(
            f"{source}: {what}; write hf:owner/name or "
            "open_clip:owner/name for a model on the hub, run:workdir for a run"
        )
    return path, known


def local(name: str) -> Path:
    """The file or folder ``name``; if it is in an object store, its copy on this host. A folder is copied without its
    subfolders but the record of training images; a weight file, together with that and the non-weight files beside it.
    Raises what ``staging.stage`` raises."""
    if not in_store(name):
        return Path(name).expanduser()
    folder, _, file = name.rstrip("/").rpartition("/")
    if Path(file).suffix not in _OPENERS:
        return staging.stage(name, wanted=lambda other: "/" not in other or _is_record(other))

    def is_wanted(other: str) -> bool:
        return other == file or _is_record(other) or ("/" not in other and Path(other).suffix in _COMPANIONS)

    return staging.stage(folder, wanted=is_wanted) / file


def _is_record(name: str) -> bool:
    return name.startswith(f"{trained_on_lib.FOLDER}/")


def _open_folder(folder: Path, prefer_openclip: bool) -> Foreign:
    """The checkpoint in a folder; ``prefer_openclip``: read OpenCLIP's files if transformers' are there too."""
    openclip_file = _first(folder, _OPENCLIP_FILES)
    if not prefer_openclip and (folder / "config.json").is_file() and (hf_file := _first(folder, _HF_FILES)):
        config = processor_files.read_json(folder / "config.json")
        if "model_type" in config:
            return _open_hf(folder, config, hf_file)
        openclip_file = openclip_file or hf_file
    if (folder / openclip.CONFIG_FILE).is_file() and (file := openclip_file or _first(folder, _HF_FILES)):
        return _open_file(file, None)
    if len(archives := sorted(folder.glob("*.npz"))) == 1:
        return _open_file(archives[0], None)
    if (folder / "checkpoints").is_dir():
        raise UserError(f"{folder}: a run of naturel_jax; write run:{folder}")
    names = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
    raise UserError(
        f"{folder}: no checkpoint in a known format. Expected config.json or {openclip.CONFIG_FILE} with its weights, "
        f"or one .npz; found {names}"
    )


def _open_adapter(folder: Path) -> Foreign:
    """The base of the adapter in a folder, with the adapter."""
    adapter = peft.find(folder)
    path, prefix = _fetched_base(folder, adapter)
    base = _open_folder(path, prefer_openclip=prefix == "open_clip")
    processor = processor_files.read_own(folder, base.config) or base.processor
    return dataclasses.replace(base, form="peft", path=folder, processor=processor, adapter=adapter)


def _fetched_base(folder: Path, adapter: peft.Found) -> tuple[Path, str]:
    """``_fetched`` for the base of the adapter in ``folder``. Raises UserError if that is an adapter itself."""
    path, prefix = _fetched(adapter.base)
    if (path / peft.CONFIG_FILE).is_file():
        raise UserError(f"{folder}: its base {adapter.base} is an adapter itself: merge that first (naturel-convert)")
    return path, prefix


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _open_tensors(path: Path) -> Tensors:
    if path.name.endswith(".index.json"):
        suffix = Path(path.name.removesuffix(".index.json")).suffix
        return open_sharded(path, _OPENERS[suffix])
    if path.suffix not in _OPENERS:
        raise UserError(f"{path}: suffix {path.suffix!r} is none of {', '.join(_OPENERS)}")
    check_regular(path)
    return _OPENERS[path.suffix](path)


def _open_hf(folder: Path, raw: Mapping[str, Any], file: Path) -> Foreign:
    config = _parsed(hf.read_config, raw, folder / "config.json")
    processor = processor_files.read_own(folder, config)
    if processor is None:
        family = family_of(config)
        text = processor_files.tokenizer(folder, family, config.text.context)
        pixels = processor_files.hf_image(folder, config.image)
        with processor_files.malformed(folder):
            context, size = config.text.context, config.image.size
            processor = Processor(context=context, size=size, to_rgb="on_white", **text, **pixels)
            config = dataclasses.replace(config, text=_checked_text(config, processor, hf.pools_at_largest(raw)))
    tensors = _without(_open_tensors(file), hf.IGNORED)
    table = hf.TABLES[raw["model_type"]]
    return Foreign("hf", folder, config, processor, table, tensors)


def _checked_text(config: TwoTowerConfig, processor: Processor, largest: bool) -> TextConfig:
    """The text tower of ``config``, which must pool at the end token of ``processor``; with ``largest``, see there
    (``ends``). Raises what ``check_ids`` raises."""
    text = processor.ends(config.text, largest=True) if largest else config.text
    processor.check_ids(text)
    return text


def _parsed(read: Callable[[Any], TwoTowerConfig], raw: Any, path: Path) -> TwoTowerConfig:
    """``read(raw)``, whose errors name ``path``."""
    with processor_files.malformed(path):
        return read(raw)


def _without(tensors: Tensors, ignored: tuple[str, ...]) -> Tensors:
    return tensors.renamed({key: key for key in tensors.shapes if key not in ignored})


def _open_file(path: Path, known: TwoTowerConfig | None) -> Foreign:
    if known and known.image.naflex:
        raise UserError(f"{path}: a NaFlex model is read from transformers' folder, with its config.json")
    tensors = _open_tensors(path)
    if path.suffix == ".npz":
        tensors = tensors.renamed(big_vision.names(tensors.shapes))
        config = known or _parsed(big_vision.read_shapes, tensors.shapes, path)
        table, processor = big_vision.read_table(tensors.shapes), _processor(path.parent, config, None, None)
        with processor_files.malformed(path.parent):
            processor.check_ids(config.text)
        return Foreign("big_vision", path, config, processor, table, tensors)
    tensors = _without(tensors, openclip.IGNORED)
    beside = path.parent / openclip.CONFIG_FILE
    raw: Any = {}
    if known:
        config = known
    elif beside.is_file():
        raw = processor_files.read_json(beside)
        timm = beside.with_name(openclip.TIMM_FILE)
        trunk = processor_files.read_json(timm) if timm.is_file() else None
        config = _parsed(lambda fields: openclip.read_config(fields, trunk), raw, beside)
    elif tensors.script:  # only OpenAI published models in this format
        config = _parsed(openclip.read_openai_shapes, tensors.shapes, path)
    else:
        raise UserError(
            f"{path}: the weights alone do not show which GELU they were trained with. Pass a Hugging Face model's "
            f"folder, put {openclip.CONFIG_FILE} beside the file, or name the model, as in negclip-b32:{path.name}; "
            f"known models: {', '.join(sorted(PRESETS))}"
        )
    table = openclip.TABLES[family_of(config).name]
    with processor_files.malformed(beside if raw else path):
        clean = processor_files.openclip_clean(raw.get("model_cfg", raw))
        preprocess = raw.get("preprocess_cfg") or {} if raw else None
        processor = _processor(path.parent, config, clean, preprocess)
        config = dataclasses.replace(config, text=_checked_text(config, processor, openclip.pools_at_largest(raw)))
    return Foreign("openai" if tensors.script else "openclip", path, config, processor, table, tensors)


def _processor(
    folder: Path, config: TwoTowerConfig, clean: str | None, preprocess: Mapping[str, Any] | None
) -> Processor:
    """The processor of a weight file: from the files next to it, else from the family's published code.

    ``clean`` and ``preprocess``: how an OpenCLIP config preprocesses texts and images; None without such a config.
    """
    if own := processor_files.read_own(folder, config):
        return own
    family, context = family_of(config), config.text.context
    beside = any((folder / name).is_file() for name in processor_files.TOKENIZER_FILES)
    if beside or config.text.vocab != family.tokenizer.bundled_vocab:
        text = processor_files.tokenizer(folder, family, context, clean or "none")
    else:
        text = processor_files.openai_tokenizer(hub.clip_vocabulary(), context, clean or "openclip")
    pixels: Pixels = family.pixels
    if preprocess is not None:
        pixels = processor_files.openclip_image(preprocess)
    elif (folder / "preprocessor_config.json").is_file():
        pixels = processor_files.hf_image(folder, config.image)
    processor = Processor(context=context, size=config.image.size, **text, **pixels)
    if clean:
        processor = dataclasses.replace(processor, centre="round", to_rgb="last")
    return processor
