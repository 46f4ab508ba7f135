"""Code that runs as it stands, for the model cards: how each library loads an exported folder."""

from naturel_jax.models.families import family_of
from naturel_jax.models.transformer import TransformerConfig
from naturel_jax.models.two_tower import TwoTowerConfig

_HERE = "."
_PIPELINE_CONTEXT = 64  # tokens that transformers' pipeline pads SigLIP's texts to, whatever the model's context

_INPUTS = """image = Image.new("RGB", (640, 480), "red")  # or Image.open("photo.jpg")
captions = ["a red square", "a blue circle"]"""

_TRANSFORMERS = """import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{path}").eval()
processor = AutoProcessor.from_pretrained("{path}")
{inputs}
batch = processor(images=image, text=captions, padding="max_length", truncation=True, return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits_per_image  # [images, captions]
print({probabilities})"""

_PIPELINE = """from PIL import Image
from transformers import pipeline

classifier = pipeline("zero-shot-image-classification", model="{path}")
{context}{inputs}
print(classifier(image, candidate_labels=captions, hypothesis_template="{{}}"))"""

_CONTEXT = """tokenizer = classifier.tokenizer
classifier.tokenizer = lambda texts, **kwargs: tokenizer(texts, **kwargs | {{"max_length": {context}}})
"""

_SENTENCE_TRANSFORMERS = """from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{path}")
{inputs}
print(model.similarity(model.encode([image]), model.encode(captions)))  # cosines [images, captions]"""

_OPENCLIP = """import open_clip
import torch
from PIL import Image

model, _, preprocess = open_clip.create_model_and_transforms("{path}")
tokenizer = open_clip.get_tokenizer("{path}")
{inputs}
model.eval()
with torch.no_grad():
    zimg = model.encode_image(preprocess(image).unsqueeze(0), normalize=True)
    ztxt = model.encode_text(tokenizer(captions), normalize=True)
print(zimg @ ztxt.T)  # cosines [images, captions]"""

_BIG_VISION = """import ml_collections
import numpy as np
from big_vision.models.proj.image_text import two_towers

config = ml_collections.ConfigDict({{
    "image_model": "vit",
    "text_model": "proj.image_text.text_transformer",
    "image": {{"patch_size": ({patch}, {patch}), "pool_type": "map", {image}}},
    "text": {{"vocab_size": {vocab}, {text}}},
    "out_dim": (None, {embed_dim}),
    "temperature_init": {scale},
    "bias_init": {bias},
}})
model = two_towers.Model(**config)
params = two_towers.load(None, "./checkpoint.npz", config)
images = np.zeros((1, {size}, {size}, 3), np.float32)  # RGB from -1 to 1
tokens = np.ones((2, {context}), np.int32)  # padded with the end token
zimg, ztxt, out = model.apply({{"params": params}}, images, tokens)
print(zimg @ ztxt.T)  # cosines [images, captions]"""

_RUN = """import naturel_jax
from PIL import Image

model = naturel_jax.load("run:.")
{inputs}
print(model.score([image], captions))  # cosines [images, captions]"""


def use(form: str, config: TwoTowerConfig, repository: str = "") -> str:
    """Markdown that shows how to use an export in ``form``: from ``repository`` on the hub, else in its folder."""
    where = "" if repository else "In this folder (or with the name of its repository on the hub in place of `.`):\n\n"
    return where + _FORMS[form](config, repository)


def _code(template: str, **fields: object) -> str:
    return f"```python\n{template.format(inputs=_INPUTS, **fields)}\n```"


def _hf(config: TwoTowerConfig, repository: str) -> str:
    path, siglip = repository or _HERE, family_of(config).name == "siglip"
    probabilities = "torch.sigmoid(logits)" if siglip else "logits.softmax(dim=-1)"
    context, note = "", ""
    if siglip and config.text.context != _PIPELINE_CONTEXT:
        context = _CONTEXT.format(context=config.text.context)
        note = (
            f"\n(It pads SigLIP's texts to {_PIPELINE_CONTEXT} tokens, but this model has {config.text.context}."
            f' Its argument for that, `tokenizer_kwargs={{"max_length": {config.text.context}}}`, has no effect in'
            " transformers 5.24; the two lines about the tokenizer do the same.)"
        )
    parts = [
        "With transformers:",
        _code(_TRANSFORMERS, path=path, probabilities=probabilities),
        f"With its pipeline:{note}",
        _code(_PIPELINE, path=path, context=context),
    ]
    if not siglip:
        parts += ["With sentence-transformers:", _code(_SENTENCE_TRANSFORMERS, path=path)]
    parts.append(
        "By default, transformers resizes images with torchvision, whose pixels differ by rounding.\n"
        'With `AutoProcessor.from_pretrained(..., backend="pil")` they are exactly those of naturel_jax.'
    )
    return "\n\n".join(parts)


def _openclip(config: TwoTowerConfig, repository: str) -> str:
    path = f"hf-hub:{repository}" if repository else f"local-dir:{_HERE}"
    parts = ["With OpenCLIP:", _code(_OPENCLIP, path=path)]
    if not repository:
        parts.append(
            "To use this folder from the hub (`hf-hub:owner/name`), set `hf_tokenizer_name` in `open_clip_config.json` "
            "to the repository's name before you upload it; `naturel-convert --push owner/name` does both."
        )
    return "\n\n".join(parts)


def _big_vision(config: TwoTowerConfig, repository: str) -> str:
    def sizes(tower: TransformerConfig) -> str:
        fields = {"width": tower.width, "depth": tower.depth, "mlp_dim": tower.mlp_dim, "num_heads": tower.heads}
        return ", ".join(f'"{name}": {value}' for name, value in fields.items())

    text = _code(
        _BIG_VISION,
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


def _run(config: TwoTowerConfig, repository: str) -> str:
    return f"With naturel_jax; training can also start from it (`config.init = 'run:FOLDER'`):\n\n{_code(_RUN)}"


_FORMS = {"hf": _hf, "openclip": _openclip, "big_vision": _big_vision, "run": _run}
