"""OpenCLIP and OpenAI checkpoints: open_clip_config.json and their tensor tables.

OpenCLIP computes SigLIP's image tower with timm, whose registered trunks use the exact GELU for most sizes, where
big_vision and transformers use its tanh form. A config read here follows OpenCLIP. A tower that timm has not
registered (Google's own, with the tanh form, or of another size) is written with timm's own config.json, which
``timm_model_name`` names by folder or repository.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from naturel_jax.models.families import FAMILIES, family_of
from naturel_jax.models.transformer import TransformerConfig
from naturel_jax.models.two_tower import TwoTowerConfig
from naturel_jax.weights.tables import (
    CONV_TORCH,
    FLAT,
    LINEAR,
    LINEAR_OUT,
    POSITION,
    SAME,
    Rule,
    Shape,
    reshaped,
    rule,
    torch_block,
    under,
    with_bias,
)
from tfds_naturel.common.errors import UserError

CONFIG_FILE = "open_clip_config.json"
TIMM_FILE = "config.json"
_TIMM_SOURCES = ("local-dir:", "hf-hub:")  # how a name of timm's says that it is that of a folder or a repository

_BLOCK = torch_block(
    norm1="ln_1.weight",
    qkv="attn.in_proj_weight",
    out="attn.out_proj.weight",
    norm2="ln_2.weight",
    up="mlp.c_fc.weight",
    down="mlp.c_proj.weight",
)
_TIMM_BLOCK = torch_block(
    norm1="norm1.weight",
    qkv="attn.qkv.weight",
    out="attn.proj.weight",
    norm2="norm2.weight",
    up="mlp.fc1.weight",
    down="mlp.fc2.weight",
)
_TIMM_HEAD = [
    rule("probe", "latent", reshaped(1, 1, -1)),
    *with_bias("attn/qkv/kernel", "q.weight kv.weight", LINEAR, FLAT, parts=(1, 2)),
    *with_bias("attn/out/kernel", "proj.weight", LINEAR_OUT),
    *with_bias("norm/scale", "norm.weight", SAME),
    *with_bias("mlp/up/kernel", "mlp.fc1.weight", LINEAR),
    *with_bias("mlp/down/kernel", "mlp.fc2.weight", LINEAR),
]
_TEXT = [
    *under("transformer/blocks/", "transformer.resblocks.{}.", _BLOCK),
    rule("embed", "token_embedding.weight", SAME),
    rule("position", "positional_embedding", SAME),
    *with_bias("post_norm/scale", "ln_final.weight", SAME),
]
TABLES: dict[str, list[Rule]] = {
    "clip": [
        *under("image/transformer/blocks/", "visual.transformer.resblocks.{}.", _BLOCK),
        *under("text/", "", _TEXT),
        rule("image/patch/kernel", "visual.conv1.weight", CONV_TORCH),
        rule("image/class_token", "visual.class_embedding", SAME),
        rule("image/position", "visual.positional_embedding", SAME),
        *with_bias("image/pre_norm/scale", "visual.ln_pre.weight", SAME),
        *with_bias("image/post_norm/scale", "visual.ln_post.weight", SAME),
        rule("image/projection/kernel", "visual.proj", SAME),
        rule("text/projection/kernel", "text_projection", SAME),
        rule("logit_scale", "logit_scale", SAME),
        rule("logit_bias", "logit_bias", SAME),  # in models fine-tuned with the sigmoid loss
    ],
    "siglip": [
        *under("image/transformer/blocks/", "visual.trunk.blocks.{}.", _TIMM_BLOCK),
        *under("image/head/", "visual.trunk.attn_pool.", _TIMM_HEAD),
        *under("text/", "text.", _TEXT),
        *with_bias("image/patch/kernel", "visual.trunk.patch_embed.proj.weight", CONV_TORCH),
        rule("image/position", "visual.trunk.pos_embed", POSITION),
        *with_bias("image/post_norm/scale", "visual.trunk.norm.weight", SAME),
        *with_bias("text/projection/kernel", "text.text_projection.weight", LINEAR),
        rule("logit_scale", "logit_scale", SAME),
        rule("logit_bias", "logit_bias", SAME),
    ],
}
IGNORED = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI's archives store as tensors

_TIMM_WIDTHS = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
# timm's SigLIP trunks: width, patch, sizes, and the GELU that their registered configs compute.
_TIMM = (
    ("base", 16, (224, 256, 384, 512), "gelu"),
    ("large", 16, (256, 384), "gelu"),
    ("so400m", 14, (224, 378, 384), "gelu"),
    ("base", 32, (256,), "gelu_tanh"),
    ("large", 16, (512,), "gelu_tanh"),
    ("so400m", 16, (256, 384, 512), "gelu_tanh"),
    ("giantopt", 16, (256, 384), "gelu_tanh"),
)
Trunk = tuple[int, int, TransformerConfig]  # image size, patch, transformer
_TRUNKS: dict[str, Trunk] = {
    f"vit_{name}_patch{patch}_siglip_{size}": (
        size,
        patch,
        TransformerConfig(*_TIMM_WIDTHS[name], activation=activation, eps=1e-6),
    )
    for name, patch, sizes, activation in _TIMM
    for size in sizes
}

_TIMM_EPS = 1e-6  # of all of timm's SigLIP trunks; no argument changes it
_TIMM_BASE = "vit_base_patch16_siglip_224"  # the trunk whose sizes and GELU ``TIMM_FILE`` replaces


def _checked(
    config: Mapping[str, Any], name: str, read: Mapping[str, Any], required: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of ``config[name]`` over the defaults ``read``; any other field must have the value in
    ``required``."""
    fields = dict(config[name])
    for key in fields.keys() - read.keys():
        if key not in required or fields[key] not in (required[key], None):
            expected = required.get(key, "no such field")
            raise UserError(f"{name}.{key} is {fields[key]!r}; expected {expected!r}")
    return {**read, **fields}


_VISION_DEFAULTS = {"image_size": 224, "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16}
_TEXT_DEFAULTS = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
_POOLING = {"pool_type": "argmax", "eos_id": 2}
_KWARGS = {"act_kwargs": None, "norm_kwargs": None}
_TOKENIZER = {"hf_tokenizer_name": None, "tokenizer_kwargs": None}
_REQUIRED = {"ls_init_value": None, "patch_dropout": 0.0, "output_tokens": False, "pool_type": "tok", "pad_id": 0}
_TIMM_REQUIRED = {"timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none"}
_SIGLIP_TEXT = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}


def _transformer(fields: Mapping[str, Any], heads: int, quick_gelu: bool) -> TransformerConfig:
    act, norm = fields["act_kwargs"] or {}, fields["norm_kwargs"] or {}
    tanh = act.get("approximate") == "tanh"
    return TransformerConfig(
        width=fields["width"],
        depth=fields["layers"],
        heads=heads,
        mlp_dim=int(fields["width"] * fields["mlp_ratio"]),
        activation="quick_gelu" if quick_gelu else "gelu_tanh" if tanh else "gelu",
        eps=norm.get("eps", 1e-5),
    )


def read_config(config: Mapping[str, Any], trunk: Mapping[str, Any] | None = None) -> TwoTowerConfig:
    """Our config from a parsed open_clip_config.json (or its ``model_cfg``), and the parsed ``TIMM_FILE`` beside it, if
    there is one. Raises UserError naming the field that is not supported."""
    config = config.get("model_cfg", config)
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in config:
            raise UserError(f"{key} is missing")
    read = _read_timm(config, trunk or {}) if "timm_model_name" in config["vision_cfg"] else _read_vit(config)
    bias = config.get("init_logit_bias")
    return dataclasses.replace(read, init_bias=None if bias is None else float(bias))


def _read_timm(config: Mapping[str, Any], trunk: Mapping[str, Any]) -> TwoTowerConfig:
    vision = _checked(config, "vision_cfg", {"timm_model_name": None, "image_size": 224}, _TIMM_REQUIRED)
    text = _checked(config, "text_cfg", {**_TEXT_DEFAULTS, **_KWARGS, **_TOKENIZER, **_SIGLIP_TEXT}, {})
    for key, value in _SIGLIP_TEXT.items():
        if text[key] != value:
            raise UserError(f"text_cfg.{key} is {text[key]!r}; expected {value!r}")
    name = vision["timm_model_name"]
    size, patch, image = _read_trunk(trunk) if str(name).startswith(_TIMM_SOURCES) and trunk else _trunk(name)
    return FAMILIES["siglip"].config(
        size=size,
        patch=patch,
        image=image,
        text=_transformer(text, text["heads"], bool(config.get("quick_gelu"))),
        vocab=text["vocab_size"],
        context=text["context_length"],
    )


def _trunk(name: str) -> Trunk:
    if name not in _TRUNKS:
        raise UserError(
            f"vision_cfg.timm_model_name is {name!r}; expected one of {sorted(_TRUNKS)}, or "
            f"{' or '.join(_TIMM_SOURCES)} with timm's {TIMM_FILE} beside the weights"
        )
    return _TRUNKS[name]


def _read_trunk(trunk: Mapping[str, Any]) -> Trunk:
    """The image tower of a parsed ``TIMM_FILE``: a registered trunk with other arguments."""
    size, patch, base = _trunk(trunk.get("architecture", ""))
    defaults = {"img_size": size, "patch_size": patch, **_timm_args(base)}
    args = _checked({"model_args": {}, **trunk}, "model_args", defaults, {"global_pool": "map", "class_token": False})
    transformer = TransformerConfig(
        width=args["embed_dim"],
        depth=args["depth"],
        heads=args["num_heads"],
        mlp_dim=int(args["embed_dim"] * args["mlp_ratio"]),
        activation=args["act_layer"],
        eps=_TIMM_EPS,
    )
    return args["img_size"], args["patch_size"], transformer


def _timm_args(config: TransformerConfig) -> dict[str, Any]:
    """The arguments of timm's vision transformer, whose names for the GELUs are ours."""
    return {
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": _ratio(config),
        "act_layer": config.activation,
    }


def _read_vit(config: Mapping[str, Any]) -> TwoTowerConfig:
    vision = _checked(config, "vision_cfg", {**_VISION_DEFAULTS, **_KWARGS}, _REQUIRED)
    text = _checked(config, "text_cfg", {**_TEXT_DEFAULTS, **_KWARGS, **_TOKENIZER, **_POOLING}, _REQUIRED)
    eos_ids = {"argmax": text["vocab_size"] - 1, "eos": text["eos_id"]}
    if text["pool_type"] not in eos_ids:
        raise UserError(f"text_cfg.pool_type is {text['pool_type']!r}; expected {sorted(eos_ids)}")
    quick_gelu = bool(config.get("quick_gelu"))
    return FAMILIES["clip"].config(
        size=vision["image_size"],
        patch=vision["patch_size"],
        image=_transformer(vision, vision["width"] // vision["head_width"], quick_gelu),
        text=_transformer(text, text["heads"], quick_gelu),
        embed_dim=config["embed_dim"],
        vocab=text["vocab_size"],
        context=text["context_length"],
        eos_id=eos_ids[text["pool_type"]],
    )


def pools_at_largest(config: Mapping[str, Any]) -> bool:
    """Whether a text's embedding is that at its largest id, also without a config. ``read_config`` takes it for the
    last of the vocabulary."""
    text: Mapping[str, Any] = config.get("model_cfg", config).get("text_cfg", {})
    return text.get("pool_type", _POOLING["pool_type"]) == "argmax"


def read_openai_shapes(shapes: Mapping[str, Shape]) -> TwoTowerConfig:
    """The config of a CLIP state dict from its shapes, with heads of width 64, as in all of OpenAI's. Raises UserError
    for another family."""
    clip = FAMILIES["clip"]
    needed = ("visual.conv1.weight", "visual.positional_embedding", "text_projection", "token_embedding.weight")
    if absent := [key for key in needed if key not in shapes]:
        raise UserError(f"not a CLIP model with a vision transformer: {', '.join(absent)} missing")

    def transformer(width: int, prefix: str) -> TransformerConfig:
        depth = sum(key.startswith(prefix) and key.endswith("attn.in_proj_weight") for key in shapes)
        return clip.tower(width, depth, width // 64)

    width, _, _, patch = shapes["visual.conv1.weight"]
    vocab, text_width = shapes["token_embedding.weight"]
    return clip.config(
        size=patch * round((shapes["visual.positional_embedding"][0] - 1) ** 0.5),
        patch=patch,
        image=transformer(width, "visual.transformer."),
        text=transformer(text_width, "transformer."),
        embed_dim=shapes["text_projection"][1],
        vocab=vocab,
        context=shapes["positional_embedding"][0],
    )


def _ratio(config: TransformerConfig) -> float:
    """The ``mlp_ratio`` that OpenCLIP, which truncates, turns into exactly our MLP width."""
    ratio = config.mlp_dim / config.width
    return ratio if int(config.width * ratio) == config.mlp_dim else (config.mlp_dim + 0.5) / config.width


def _kwargs(config: TransformerConfig) -> dict[str, Any]:
    result: dict[str, Any] = {"mlp_ratio": _ratio(config), "norm_kwargs": {"eps": config.eps}}
    return result | ({"act_kwargs": {"approximate": "tanh"}} if config.activation == "gelu_tanh" else {})


def write_config(config: TwoTowerConfig, home: str = f"{_TIMM_SOURCES[0]}.") -> dict[str, Any]:
    """``model_cfg`` for ``config``. ``home``: where timm finds what ``write_trunk`` returns, if that is not None:
    ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``. Raises UserError if OpenCLIP has no equivalent model."""
    image, text = config.image, config.text
    if image.naflex:
        raise UserError("OpenCLIP has no NaFlex model; export to hf or run instead, or at a fixed resolution (--size)")
    quick = {image.transformer.activation == "quick_gelu", text.transformer.activation == "quick_gelu"}
    if len(quick) > 1:
        raise UserError("only one tower has QuickGELU; OpenCLIP has one setting for both; export to hf instead")
    text_cfg = {
        "context_length": text.context,
        "vocab_size": text.vocab,
        "width": text.transformer.width,
        "heads": text.transformer.heads,
        "layers": text.transformer.depth,
        **_kwargs(text.transformer),
    }
    bias = {} if config.init_bias is None else {"init_logit_bias": config.init_bias}
    towers = _WRITERS[family_of(config).name](config, text_cfg, home)
    return {"embed_dim": config.embed_dim, "quick_gelu": quick.pop(), **bias, **towers}


def write_trunk(config: TwoTowerConfig) -> dict[str, Any] | None:
    """``TIMM_FILE`` for the image tower of ``config``; None if timm knows it by name, or does not compute it."""
    if family_of(config).name != "siglip" or _registered(config):
        return None
    image = config.image
    return {
        "architecture": _TIMM_BASE,
        "num_classes": 0,
        "model_args": {"img_size": image.size, "patch_size": image.patch, **_timm_args(image.transformer)},
        "pretrained_cfg": {"input_size": [3, image.size, image.size], "fixed_input_size": True},
    }


def at(home: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of OpenCLIP's factory by which a parsed open_clip_config.json is read with its ``TIMM_FILE`` at
    ``home``."""
    vision = config.get("model_cfg", config)["vision_cfg"]
    elsewhere = str(vision.get("timm_model_name")).startswith(_TIMM_SOURCES)
    return {"vision_cfg": vision | {"timm_model_name": home}} if elsewhere else {}


def _registered(config: TwoTowerConfig) -> str | None:
    """timm's name for the image tower, or None."""
    trunk = (config.image.size, config.image.patch, config.image.transformer)
    return next((name for name, known in _TRUNKS.items() if known == trunk), None)


def _write_vit(config: TwoTowerConfig, text_cfg: dict[str, Any], home: str) -> dict[str, Any]:
    image, text = config.image, config.text
    pooling = {} if text.eos_id == text.vocab - 1 else {"pool_type": "eos", "eos_id": text.eos_id}
    vision_cfg = {
        "image_size": image.size,
        "patch_size": image.patch,
        "width": image.transformer.width,
        "layers": image.transformer.depth,
        "head_width": image.transformer.width // image.transformer.heads,
        **_kwargs(image.transformer),
    }
    return {"vision_cfg": vision_cfg, "text_cfg": {**text_cfg, **pooling}}


def _write_timm(config: TwoTowerConfig, text_cfg: dict[str, Any], home: str) -> dict[str, Any]:
    if (eps := config.image.transformer.eps) != _TIMM_EPS:
        raise UserError(
            f"the image tower's eps is {eps:g}; timm's SigLIP has {_TIMM_EPS:g}: export to hf or run instead"
        )
    name = _registered(config) or home
    return {
        "custom_text": True,
        "vision_cfg": {"timm_model_name": name, "image_size": config.image.size, **_TIMM_REQUIRED},
        "text_cfg": {**text_cfg, **_SIGLIP_TEXT},
    }


# Family -> its towers' settings, given those common to all text towers, and ``home``.
_WRITERS: dict[str, Callable[[TwoTowerConfig, dict[str, Any], str], dict[str, Any]]] = {
    "clip": _write_vit,
    "siglip": _write_timm,
}
