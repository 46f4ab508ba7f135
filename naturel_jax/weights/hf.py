"""Hugging Face folders of ``CLIPModel``, ``SiglipModel`` and ``Siglip2Model``: config.json and their tensor tables."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from naturel_jax.models.families import FAMILIES, Family, family_of
from naturel_jax.models.transformer import TransformerConfig
from naturel_jax.models.two_tower import TwoTowerConfig
from naturel_jax.weights.tables import (
    CONV_TORCH,
    FLAT,
    LINEAR,
    LINEAR_OUT,
    SAME,
    Rule,
    reshaped,
    rule,
    torch_block,
    under,
    with_bias,
)
from tfds_naturel.common.errors import UserError

NAFLEX = "siglip2"  # model_type of a Siglip2Model: SigLIP 2 of fixed resolution is a SiglipModel
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}

# What a config.json may omit: the defaults of transformers' configuration classes, by model_type.
_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = json.loads(Path(__file__).with_name("hf_defaults.json").read_text())
_LARGEST = 2  # what configs from before transformers 4.31 have as a CLIP's end token, meaning the largest id of a text
_REQUIRED = {"attention_dropout": 0.0, "num_channels": 3, "vision_use_head": True}

_BLOCK = torch_block(
    norm1="layer_norm1.weight",
    qkv="self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight",
    out="self_attn.out_proj.weight",
    norm2="layer_norm2.weight",
    up="mlp.fc1.weight",
    down="mlp.fc2.weight",
)
_BOTH = [
    *under("image/transformer/blocks/", "vision_model.encoder.layers.{}.", _BLOCK),
    *under("text/transformer/blocks/", "text_model.encoder.layers.{}.", _BLOCK),
    rule("image/position", "vision_model.embeddings.position_embedding.weight", SAME),
    *with_bias("image/post_norm/scale", "vision_model.post_layernorm.weight", SAME),
    rule("text/embed", "text_model.embeddings.token_embedding.weight", SAME),
    rule("text/position", "text_model.embeddings.position_embedding.weight", SAME),
    *with_bias("text/post_norm/scale", "text_model.final_layer_norm.weight", SAME),
]
_CLIP = [
    *_BOTH,
    rule("image/patch/kernel", "vision_model.embeddings.patch_embedding.weight", CONV_TORCH),
    rule("image/class_token", "vision_model.embeddings.class_embedding", SAME),
    *with_bias("image/pre_norm/scale", "vision_model.pre_layrnorm.weight", SAME),  # sic
    rule("image/projection/kernel", "visual_projection.weight", LINEAR),
    rule("text/projection/kernel", "text_projection.weight", LINEAR),
    rule("logit_scale", "logit_scale", SAME),
]
_SIGLIP_COMMON = [
    *_BOTH,
    rule("image/patch/bias", "vision_model.embeddings.patch_embedding.bias", SAME),
    rule("image/head/probe", "vision_model.head.probe", reshaped(1, 1, -1)),
    *with_bias("image/head/attn/qkv/kernel", "vision_model.head.attention.in_proj_weight", LINEAR, FLAT),
    *with_bias("image/head/attn/out/kernel", "vision_model.head.attention.out_proj.weight", LINEAR_OUT),
    *with_bias("image/head/norm/scale", "vision_model.head.layernorm.weight", SAME),
    *with_bias("image/head/mlp/up/kernel", "vision_model.head.mlp.fc1.weight", LINEAR),
    *with_bias("image/head/mlp/down/kernel", "vision_model.head.mlp.fc2.weight", LINEAR),
    *with_bias("text/projection/kernel", "text_model.head.weight", LINEAR),
    rule("logit_scale", "logit_scale", FLAT),
    rule("logit_bias", "logit_bias", FLAT),
]
_PATCH = "vision_model.embeddings.patch_embedding.weight"
TABLES: dict[str, list[Rule]] = {
    "clip": _CLIP,
    "siglip": [*_SIGLIP_COMMON, rule("image/patch/kernel", _PATCH, CONV_TORCH)],
    NAFLEX: [*_SIGLIP_COMMON, rule("image/patch/kernel", _PATCH, LINEAR)],
}
# Buffers that transformers wrote before version 4.31 and no longer reads.
IGNORED = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


def _tower(config: Mapping[str, Any], model_type: str, name: str) -> dict[str, Any]:
    """One tower's settings with the defaults filled in; unsupported ones are refused."""
    defaults = _DEFAULTS[model_type][name]
    fields = {**defaults, **(config.get(name) or {})}
    if override := config.get(f"{name}_dict"):  # older files have both, and in transformers this one wins
        fields.update({**defaults, **override})
    for key, value in _REQUIRED.items():
        if fields.get(key, value) != value:
            raise UserError(f"{name}.{key} is {fields[key]!r}; only {value!r} is implemented")
    if fields["hidden_act"] not in ACTIVATIONS:
        raise UserError(f"{name}.hidden_act is {fields['hidden_act']!r}; expected one of {sorted(ACTIVATIONS)}")
    return fields


def _transformer(fields: Mapping[str, Any]) -> TransformerConfig:
    return TransformerConfig(
        width=fields["hidden_size"],
        depth=fields["num_hidden_layers"],
        heads=fields["num_attention_heads"],
        mlp_dim=fields["intermediate_size"],
        activation=ACTIVATIONS[fields["hidden_act"]],
        eps=fields["layer_norm_eps"],
    )


def _clip_sizes(config: Mapping[str, Any], text: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, int]:
    eos_id = text["eos_token_id"]
    if not isinstance(eos_id, int):
        raise UserError(f"text_config.eos_token_id is {eos_id!r}; expected a token id")
    return {
        "size": image["image_size"],
        "embed_dim": config.get("projection_dim", 512),
        "eos_id": text["vocab_size"] - 1 if eos_id == _LARGEST else eos_id,
    }


def pools_at_largest(config: Mapping[str, Any]) -> bool:
    """Whether a text's embedding is that at its largest id. ``read_config`` takes it for the last of the vocabulary."""
    return config["model_type"] == "clip" and _tower(config, "clip", "text_config")["eos_token_id"] == _LARGEST


def _siglip_sizes(config: Mapping[str, Any], text: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, int]:
    projection = text.get("projection_size") or text["hidden_size"]
    if projection != image["hidden_size"]:
        raise UserError(
            f"text_config.projection_size is {projection}, "
            f"vision_config.hidden_size {image['hidden_size']}; they must be equal"
        )
    return {"size": image["image_size"]}


def _naflex_sizes(config: Mapping[str, Any], text: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, int]:
    size = image["patch_size"] * round(image["num_patches"] ** 0.5)
    return _siglip_sizes(config, text, {**image, "image_size": size})


# model_type -> family, and a reader for the sizes that each class stores in its own way.
_READERS: dict[str, tuple[Family, Callable[..., dict[str, int]]]] = {
    "clip": (FAMILIES["clip"], _clip_sizes),
    "siglip": (FAMILIES["siglip"], _siglip_sizes),
    NAFLEX: (FAMILIES[NAFLEX], _naflex_sizes),
}


def read_config(config: Mapping[str, Any]) -> TwoTowerConfig:
    """Our config from a parsed config.json. Raises UserError naming the field that is not supported."""
    model_type = config.get("model_type")
    if model_type not in _READERS:
        raise UserError(f"model_type is {model_type!r}; expected one of {sorted(_READERS)}")
    family, sizes = _READERS[model_type]
    text, image = (_tower(config, model_type, name) for name in ("text_config", "vision_config"))
    return family.config(
        patch=image["patch_size"],
        image=_transformer(image),
        text=_transformer(text),
        vocab=text["vocab_size"],
        context=text["max_position_embeddings"],
        **sizes(config, text, image),
    )


def _fields(config: TransformerConfig) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "hidden_act": names[config.activation],
        "layer_norm_eps": config.eps,
        "attention_dropout": 0.0,
    }


def _clip_fields(config: TwoTowerConfig) -> dict[str, dict[str, Any]]:
    projection = {"projection_dim": config.embed_dim}
    return {
        "config": {**projection, "logit_scale_init_value": 2.6592},
        "text_config": {"eos_token_id": config.text.eos_id, **projection},
        "vision_config": projection,
    }


def _siglip_fields(config: TwoTowerConfig) -> dict[str, dict[str, Any]]:
    return {
        "config": {},
        "text_config": {"projection_size": config.embed_dim},
        "vision_config": {"vision_use_head": True},
    }


# Family -> the fields of its config.json that are not common to all.
_WRITERS: dict[str, Callable[[TwoTowerConfig], dict[str, dict[str, Any]]]] = {
    "clip": _clip_fields,
    "siglip": _siglip_fields,
    NAFLEX: _siglip_fields,
}


def check_config(config: TwoTowerConfig) -> None:
    """Raises UserError if no transformers class implements ``config``."""
    family = family_of(config)
    model = f"{family.hf_prefix}Model"
    if family.init_bias is None and config.init_bias is not None:
        raise UserError(
            f"transformers' {model} has no logit bias, but this model has one: leave it out (naturel-convert "
            "--drop_bias), which changes no ranking, or export to openclip or run"
        )
    if family.init_bias is not None and config.init_bias is None:
        raise UserError(f"transformers' {model} has a logit bias, but this has none; export to openclip or run instead")
    if config.text.eos_id == _LARGEST:
        raise UserError(f"text.eos_id is 2, which transformers reads as 'the largest id'; no {model} pools at id 2")


def write_config(config: TwoTowerConfig, dtype: str, special: Mapping[str, int | None]) -> dict[str, Any]:
    """config.json for ``config``; ``special``: the tokenizer's ``bos_token_id``, ``eos_token_id`` and ``pad_token_id``.
    Raises UserError if no transformers class implements this config."""
    check_config(config)
    family = family_of(config)
    image, text, model = config.image, config.text, f"{family.hf_prefix}Model"
    own = _WRITERS[family.name](config)
    return {
        "architectures": [model],
        "model_type": family.name,
        "dtype": dtype,
        "initializer_factor": 1.0,
        "text_config": {
            **_fields(text.transformer),
            **special,
            "model_type": f"{family.name}_text_model",
            "vocab_size": text.vocab,
            "max_position_embeddings": text.context,
            **own["text_config"],
        },
        "vision_config": {
            **_fields(image.transformer),
            "model_type": f"{family.name}_vision_model",
            **({"num_patches": image.grid**2} if image.naflex else {"image_size": image.size}),
            "patch_size": image.patch,
            "num_channels": 3,
            **own["vision_config"],
        },
        **own["config"],
    }
