"""Code that runs as it stands, for the model cards: how each library loads an exported folder."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from naturel_jax.data.text.processor import Processor
from naturel_jax.models.families import family_of
from naturel_jax.models.transformer import TransformerConfig
from naturel_jax.models.two_tower import TwoTowerConfig
from naturel_jax.weights import openclip

_HERE = "."
_PIPELINE_CONTEXT = 64  # tokens that transformers' pipeline pads SigLIP's texts to, whatever the model's context

_TEXT = Path(__file__).with_name("snippets.md").read_text("utf-8")
_CODE = dict(re.findall(r"^## (\w+)\n\n```python\n(.*?)\n```", _TEXT, re.MULTILINE | re.DOTALL))  # templates by name


class _Export(NamedTuple):
    """An exported model; ``repository``: its name on the hub, or empty."""

    config: TwoTowerConfig
    processor: Processor
    repository: str

    @property
    def siglip(self) -> bool:
        return family_of(self.config).name in ("siglip", "siglip2")

    @property
    def sizes(self) -> str:
        """Further arguments of transformers' processor: ``Siglip2Processor`` has sizes of its own, whatever the files
        say."""
        of = self.processor
        if of.resize != "naflex":
            return ""
        sizes = {"max_length": of.context, "patch_size": of.patch, "max_num_patches": of.max_patches}
        return "".join(f", {name}={size}" for name, size in sizes.items())

    @property
    def probabilities(self) -> str:
        return "torch.sigmoid(logits)" if self.siglip else "logits.softmax(dim=-1)"


def use(form: str, config: TwoTowerConfig, processor: Processor, repository: str = "") -> str:
    """Markdown that shows how to use an export in ``form``: from ``repository`` on the hub, else in its folder."""
    elsewhere = " (or with the name of its repository on the hub in place of `.`)" if form in ("hf", "peft") else ""
    where = "" if repository else f"In this folder{elsewhere}:\n\n"
    return where + _FORMS[form](_Export(config, processor, repository))


def _code(name: str, **fields: object) -> str:
    return f"```python\n{_CODE[name].format(inputs=_CODE['inputs'], **fields)}\n```"


def _hf(export: _Export) -> str:
    path, tokens = export.repository or _HERE, export.config.text.context
    context, note = "", ""
    if export.siglip and tokens != _PIPELINE_CONTEXT:
        context = _CODE["context"].format(context=tokens) + "\n"
        note = (
            f"\n(It pads SigLIP's texts to {_PIPELINE_CONTEXT} tokens, but this model has {tokens}."
            f' Its argument for that, `tokenizer_kwargs={{"max_length": {tokens}}}`, has no effect in'
            " transformers 5.24; the two lines about the tokenizer do the same.)"
        )
    parts = [
        "With transformers:",
        _code("transformers", path=path, probabilities=export.probabilities, sizes=export.sizes),
        f"With its pipeline:{note}",
        _code("pipeline", path=path, context=context),
    ]
    if not export.siglip:
        parts += ["With sentence-transformers:", _code("sentence_transformers", path=path)]
    parts.append(
        'With `backend="pil"`, transformers resizes images with Pillow: pixels, token ids and (within 1e-5 of the\n'
        "logit scale) logits are those of `naturel_jax.load` on this folder. Its default, torchvision, rounds pixels\n"
        "otherwise, by at most two of 255 levels; in portrait format, whose height Pillow 13 resizes first,\n"
        "by up to 4 in photos, and about 30 in noise."
    )
    return "\n\n".join(parts)


def _openclip(export: _Export) -> str:
    path = f"hf-hub:{export.repository}" if export.repository else f"local-dir:{_HERE}"
    parts = ["With OpenCLIP:", _code("openclip", path=path)]
    if not export.repository and openclip.write_trunk(export.config):
        parts.append(
            f"timm has no name for this image tower; `timm_model_name` in `{openclip.CONFIG_FILE}` names this folder, "
            f"whose `{openclip.TIMM_FILE}` describes it. Set it to `local-dir:FOLDER` if you move the folder, and to "
            "`hf-hub:owner/name` before you upload it."
        )
    if not export.repository:
        parts.append(
            "To use this folder from the hub (`hf-hub:owner/name`), set `hf_tokenizer_name` in `open_clip_config.json` "
            "to the repository's name before you upload it; `naturel-convert --push owner/name` does both."
        )
    return "\n\n".join(parts)


def _big_vision(export: _Export) -> str:
    config = export.config

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


def _run(_: _Export) -> str:
    return f"With naturel_jax; training can also start from it (`config.init = 'run:FOLDER'`):\n\n{_code('run')}"


def _peft(export: _Export) -> str:
    note = "`naturel_jax.load` on this folder, and `config.init`, take the adapter with its base, too."
    path = export.repository or _HERE
    code = _code("peft", path=path, probabilities=export.probabilities, sizes=export.sizes)
    return f"With PEFT:\n\n{code}\n\n{note}"


_FORMS: dict[str, Callable[[_Export], str]] = {
    "hf": _hf,
    "openclip": _openclip,
    "big_vision": _big_vision,
    "run": _run,
    "peft": _peft,
}
