"""LoRA adapters in PEFT's format, ``adapter_config.json`` and ``adapter_model.safetensors``, for transformers'
``CLIPModel`` and ``SiglipModel``.

PEFT names matrices after their module, ``base_model.model.<module>.lora_A.weight`` [R, I] and ``.lora_B.weight``
[O, R]. From there it also loads parameters of the model itself, such as the logit scale
(``set_peft_model_state_dict`` in peft/utils/save_and_load.py, version 0.21).
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from naturel_jax import config
from naturel_jax.config.settings import are_patterns
from naturel_jax.models import adapters
from naturel_jax.models.families import Family, family_of
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig
from naturel_jax.weights import hf, tables
from naturel_jax.weights.processor_files import malformed, read_json
from naturel_jax.weights.tables import LINEAR, Place, Rule, rule, under
from naturel_jax.weights.tensors import Tensors, explained, open_safetensors
from tfds_naturel.common.errors import UserError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
DIGEST = "base_digest"  # in the metadata of our own files

# Fields of LoraConfig that change what the matrices mean, and the values that are read.
_READ: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),  # others may change the base
    **dict.fromkeys(("fan_in_fan_out", "lora_bias", "use_dora", "use_qalora"), (False, None)),
    **dict.fromkeys(("alpha_pattern", "rank_pattern"), ({}, None)),
    "layers_to_transform": (None, []),
    **dict.fromkeys(("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication"), (None,)),
    **dict.fromkeys(("modules_to_save", "monteclora_config", "target_parameters", "use_bdlora"), (None,)),
    "trainable_token_indices": (None,),
}
# Those that are read elsewhere, or concern training only.
_OTHERS = frozenset(
    re.findall(
        r"\w+",
        """auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config exclude_modules
        inference_mode layers_pattern loftq_config lora_alpha lora_dropout lora_ga_config megatron_config
        megatron_core peft_version qalora_group_size r revision target_modules task_type use_rslora velora_config""",
    )
)
# Limits of a pattern of names: the file may come from anyone, and Python's ``re`` tries every way to match it.
_MOST_REPETITIONS, _MOST_ALTERNATIVES = 3, 32


class Adapter(NamedTuple):
    """A tree of adapters (``models/adapters.py``). ``base``: its model, as ``weights.load`` takes it; ``digest``:
    that model's ``adapters.digest``, or '' if it is not known."""

    params: Params
    options: config.Adapter
    base: str
    digest: str

    @classmethod
    def of_run(cls, meta: Mapping[str, Any]) -> "Adapter":
        """The adapter of a run that kept ``meta``, without its parameters. Raises UserError."""
        fields = {name: value for name, value in meta.items() if name not in ("base", "digest")}
        return cls({}, config.parse(config.Adapter, fields, "adapter"), str(meta["base"]), str(meta["digest"]))

    def meta(self) -> dict[str, Any]:
        """Everything but the parameters, as JSON."""
        return {"base": self.base, "digest": self.digest, **dataclasses.asdict(self.options)}


def check_base(name: str, base: str, expected: str, params: Params) -> None:
    """Raises UserError if ``params``, of the model ``base``, are not those that the adapter ``name`` belongs to."""
    if expected and (found := adapters.digest(params)) != expected:
        raise UserError(
            f"{name}: an adapter of {base} with parameters of digest {expected}, but {base} now has {found}: restore "
            "the model that it was trained on"
        )


def table(family: Family, params: Params) -> list[Rule]:
    """Rules for the adapters of ``params``, arrays or shapes, and for the logit scale and bias."""
    rules = hf.TABLES[family.name]
    keys = {r.path: r.keys for r in rules}
    found = under("", _PREFIX, [r for r in rules if r.path.startswith("logit_")])
    for path, layer in adapters.layers(params).items():
        module = _PREFIX + keys[layer.kernel][layer.part or 0].removesuffix(".weight")
        found += [rule(f"{path}/lora_{x}", f"{module}.lora_{x.upper()}.weight", LINEAR) for x in "ab"]
    return found


# ---- Reading ---------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """An adapter whose tensors have not been read yet. Fields: see ``Adapter``; ``options`` without targets, and
    ``is_target``, whether PEFT gives a module an adapter."""

    tensors: Tensors
    options: config.Adapter
    base: str
    digest: str
    is_target: Callable[[str], bool]

    def read(self, model: TwoTowerConfig, base: Params, place: Place) -> Adapter:
        """The adapter of ``base``. Raises UserError listing tensors that are missing, of modules that are no linear
        layer of this model or not targets, or of the wrong shape, and for a base that is not the one that the file
        names."""
        name, rules = self.tensors.name, table(family_of(model), base)
        templates = {re.sub(r"\.layers\.\d+\.", ".layers.{}.", key) for key in self.tensors.shapes}
        paths = {r.path for r in rules if templates.intersection(r.keys)}
        layers = tuple(sorted({path.rpartition("/")[0] for path in paths if "/" in path}))
        shapes = adapters.shapes(base, self.options.rank, layers)
        kept = {path: jnp.copy(base[path]) for path in shapes if path.startswith("logit_") and path not in paths}
        shapes = {path: shape for path, shape in shapes.items() if path not in kept}
        tables.check_keys(name, rules, shapes, self.tensors.shapes)
        self._check_targets()
        check_base(name, self.base, self.digest, base)
        params = {"image": {}, "text": {}, **kept, **tables.read(name, rules, shapes, self.tensors.get, place)}
        options = dataclasses.replace(self.options, targets=layers)
        _check_products(name, params, layers, options)
        return Adapter(params, options, self.base, self.digest or adapters.digest(base))

    def _check_targets(self) -> None:
        """Raises UserError for matrices that PEFT would leave out."""
        keys = (key.removeprefix(_PREFIX).rpartition(".lora_")[0] for key in self.tensors.shapes)
        if beyond := sorted(module for module in set(keys) if module and not self.is_target(module)):
            raise UserError(
                f"{self.tensors.name} has matrices of {len(beyond)} modules that target_modules of {CONFIG_FILE} does "
                f"not select, so PEFT leaves them out: {', '.join(beyond[:4])}; correct one of the files"
            )


def _check_products(name: str, params: Params, layers: Iterable[str], options: config.Adapter) -> None:
    """Raises UserError for finite matrices whose product may not be finite."""
    flat = tables.flatten(params)
    for path in layers:
        a, b = (float(abs(flat[f"{path}/lora_{x}"]).max()) for x in "ab")
        largest, scale = a * b * options.rank * abs(options.scale), abs(options.scale)
        if not max(largest, scale) < float(np.finfo(np.float32).max):
            raise UserError(
                f"{name}: lora_A reaches {a:.3g} and lora_B {b:.3g} in {path}, scaled by {scale:.3g}: this may overflow"
            )


def find(folder: Path) -> Found:
    """The adapter in ``folder``. Raises UserError for one that is not plain LoRA, by the field that says so."""
    path, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    fields = read_json(path)
    for field, values in _READ.items():
        if (value := fields.get(field)) not in values:
            raise UserError(f"{path}: {field} is {value!r:.80}; only {values[0]!r} is implemented")
    if unknown := sorted(field for field in fields.keys() - _READ.keys() - _OTHERS if fields[field]):
        raise UserError(f"{path}: {unknown[0]!r:.80} is set, and its meaning is not known here; expected plain LoRA")
    with malformed(path):
        rank, alpha, rslora = fields["r"], fields["lora_alpha"], fields.get("use_rslora") or False
        given = {"rank": rank, "alpha": alpha, "rslora": rslora}
        options = config.parse(config.Adapter, given, "LoRA")
        if options.rank < 1:
            raise UserError(f"r is {rank!r}; expected a whole number of at least 1")
        base, is_target = _base(fields), _named(fields, "target_modules")
        is_excluded = _named(fields, "exclude_modules") if fields.get("exclude_modules") else lambda module: False
    if not weights.is_file():
        raise UserError(f"{weights} is missing: {CONFIG_FILE} is there without its tensors")
    tensors = open_safetensors(weights)
    with explained(weights, "safetensors"), safetensors.safe_open(weights, "numpy") as file:
        digest = (file.metadata() or {}).get(DIGEST, "")
    return Found(tensors, options, base, digest, lambda module: is_target(module) and not is_excluded(module))


def _named(fields: Mapping[str, Any], field: str) -> Callable[[str], bool]:
    """Whether ``field`` names a module: it lists ends of names, or is an expression for whole names
    (``check_target_module_exists`` in peft/tuners/tuners_utils.py)."""
    value = fields.get(field)
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        ends = tuple(f".{name}" for name in value)
        return lambda module: f".{module}".endswith(ends)
    if (
        isinstance(value, str)
        and value.count("|") < _MOST_ALTERNATIVES
        and are_patterns([(value, 0)], _MOST_REPETITIONS)
    ):
        return lambda module: bool(re.fullmatch(value, module))
    raise UserError(
        f"{field} is {value!r:.200}; expected names of modules, or a regular expression with less than "
        f"{_MOST_ALTERNATIVES} alternatives of at most {_MOST_REPETITIONS} repetitions or groups"
    )


def _base(fields: Mapping[str, Any]) -> str:
    name, revision = fields.get("base_model_name_or_path"), fields.get("revision")
    if isinstance(name, str) and name and not revision and Path(name).is_dir():
        return name
    if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise UserError(f"base_model_name_or_path is {name!r:.200}; expected a folder that is here, or OWNER/NAME")
    return f"hf:{name}@{revision}" if revision else f"hf:{name}"


# ---- Writing ---------------------------------------------------------------------------------------------------------


def base_fields(base: str) -> dict[str, str | None]:
    """How PEFT names the model ``base``. Raises UserError if transformers cannot load it."""
    kind, _, name = base.partition(":")
    if kind == "hf":
        name, _, revision = name.partition("@")
        return {"base_model_name_or_path": name, "revision": revision or None}
    file = Path(base) / "config.json"
    if not file.is_file() or "model_type" not in read_json(file):
        raise UserError(
            f"the adapter's base is {base}, which transformers cannot load: export it (naturel-convert {base} FOLDER), "
            "and name that folder, or its copy on the hub, with --base"
        )
    return {"base_model_name_or_path": base, "revision": None}


def write_config(model: TwoTowerConfig, adapter: Adapter) -> dict[str, Any]:
    """``adapter_config.json``. Raises UserError if no transformers class implements ``model`` or loads its base."""
    hf.check_config(model)
    family, options = family_of(model), adapter.options
    rules = [r for r in table(family, Model(model).shapes()) if r.path.endswith("lora_a")]
    flat = tables.flatten(adapter.params)
    modules = [r.keys[0].removeprefix(_PREFIX).removesuffix(".lora_A.weight") for r in rules if r.path in flat]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": {
            "base_model_class": f"{family.hf_prefix}Model",
            "parent_library": f"transformers.models.{family.name}.modeling_{family.name}",
        },
        **base_fields(adapter.base),
        "inference_mode": True,
        "r": options.rank,
        "lora_alpha": int(options.alpha) if options.alpha.is_integer() else options.alpha,
        "use_rslora": options.rslora,
        "lora_dropout": 0.0,
        "bias": "none",
        # An expression that matches whole names: a list would also select layers of the pooling head.
        "target_modules": "|".join(re.escape(module).replace(r"\{\}", r"\d+") for module in modules),
    }
