"""Code that runs as it stands, for the model cards: how each library loads an exported folder."""

import re
from pathlib import Path

from naturel_jax.data.text.processor import Processor
from naturel_jax.models.families import family_of
from naturel_jax.models.transformer import TransformerConfig
from naturel_jax.models.two_tower import TwoTowerConfig
from naturel_jax.weights import openclip

_HERE = "."
_PIPELINE_CONTEXT = 64  # tokens that transformers' pipeline pads SigLIP's texts to, whatever the model's context

_TEXT = Path(__file__).with_name("snippets.md").read_text("utf-8")
_CODE = dict(re.findall(r"^## (\w+)\n\n```python\n(.*?)\n```", _TEXT, re.MULTILINE | re.DOTALL))  # templates by name


def use(form: str, config: TwoTowerConfig, processor: Processor, repository: str = "") -> str:
    """Markdown that shows how to use an export in ``form``: from ``repository`` on the hub, else in its folder."""
    where = "" if repository else "In this folder (or with the name of its repository on the hub in place of `.`):\n\n"
    return where + _FORMS[form](config, processor, repository)


def _code(name: str, **fields: object) -> str:
    return f"```python\n{_CODE[name].format(inputs=_CODE['inputs'], **fields)}\n```"


def _is_siglip(config: TwoTowerConfig) -> bool:
    return family_of(config).name in ("siglip", "siglip2")


def _sizes(processor: Processor) -> str:
    """Further arguments of transformers' processor: ``Siglip2Processor`` has sizes of its own, whatever the files
    say."""
    if processor.resize != "naflex":
        return ""
    sizes = {"max_length": processor.context, "patch_size": processor.patch, "max_num_patches": processor.max_patches}
    return "".join(f", {name}={size}" for name, size in sizes.items())


def _hf(config: TwoTowerConfig, processor: Processor, repository: str) -> str:
    path, siglip = repository or _HERE, _is_siglip(config)
    probabilities = "torch.sigmoid(logits)" if siglip else "logits.softmax(dim=-1)"
    context, note = "", ""
    if siglip and config.text.context != _PIPELINE_CONTEXT:
        context = _CODE["context"].format(context=config.text.context) + "\n"
        note = (
            f"\n(It pads SigLIP's texts to {_PIPELINE_CONTEXT} tokens, but this model has {config.text.context}."
            f' Its argument for that, `tokenizer_kwargs={{"max_length": {config.text.context}}}`, has no effect in'
            " transformers 5.24; the two lines about the tokenizer do the same.)"
        )
    parts = [
        "With transformers:",
        _code("transformers", path=path, probabilities=probabilities, sizes=_sizes(processor)),
        f"With its pipeline:{note}",
        _code("pipeline", path=path, context=context),
    ]
    if not siglip:
        parts += ["With sentence-transformers:", _code("sentence_transformers", path=path)]
    parts.append(
        'With `backend="pil"`, transformers resizes images with Pillow: pixels, token ids and (within 1e-5 of the\n'
        "logit scale) logits are those of `naturel_jax.load` on this folder. Its default, torchvision, rounds pixels\n"
        "otherwise, each by at most one of 255 levels."
    )
    return "\n\n".join(parts)


def _openclip(config: TwoTowerConfig, processor: Processor, repository: str) -> str:
    path = f"hf-hub:{repository}" if repository else f"local-dir:{_HERE}"
    parts = ["With OpenCLIP:", _code("openclip", path=path)]
    if not repository and openclip.write_trunk(config):
        parts.append(
            f"timm has no name for this image tower; `timm_model_name` in `{openclip.CONFIG_FILE}` names this folder, "
            f"whose `{openclip.TIMM_FILE}` describes it. Set it to `local-dir:FOLDER` if you move the folder, and to "
            "`hf-hub:owner/name` before you upload it."
        )
    if not repository:
        parts.append(
            "To use this folder from the hub (`hf-hub:owner/name`), set `hf_tokenizer_name` in `open_clip_config.json` "
            "to the repository's name before you upload it; `naturel-convert --push owner/name` does both."
        )
    return "\n\n".join(parts)


def _big_vision(config: TwoTowerConfig, processor: Processor, repository: str) -> str:
    def sizes(tower: TransformerConfig) -> str:
        fields = {"width": tower.width, "depth": tower.depth, "mlp_dim": tower.mlp_dim, "num_heads": tower.heads}
        return ", ".join(f'"{name}": {value}' for name, value in fields.items())

    text = _code(
        "big_vision",
        patch=config.image.patch,
        size=config.image.size,
        image=sizes(config.image.transformer),
        text=sizes(config.text.transformer),
        vocab=config.text.vocab,
        context=config.text.context,
        embed_dim=config.embed_dim,
        scale=config.init_scale,
        bias=config.init_bias,
    )
    return f"With big_vision, whose checkout must be in `PYTHONPATH`:\n\n{text}"


def _run(config: TwoTowerConfig, processor: Processor, repository: str) -> str:
    return f"With naturel_jax; training can also start from it (`config.init = 'run:FOLDER'`):\n\n{_code('run')}"


def _peft(config: TwoTowerConfig, processor: Processor, repository: str) -> str:
    probabilities = "torch.sigmoid(logits)" if _is_siglip(config) else "logits.softmax(dim=-1)"
    note = "`naturel_jax.load` on this folder, and `config.init`, take the adapter with its base, too."
    code = _code("peft", path=repository or _HERE, probabilities=probabilities, sizes=_sizes(processor))
    return f"With PEFT:\n\n{code}\n\n{note}"


_FORMS = {"hf": _hf, "openclip": _openclip, "big_vision": _big_vision, "run": _run, "peft": _peft}
