"""Scores of transformers' and OpenCLIP's models on official benchmark files: each item by itself, as in the benchmarks'
own scripts, with the libraries' own processors."""

import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import transformers
from PIL import Image

from naturel_jax.benchmarks.sugarcrepe import SUBSETS

Scorer = Callable[[Sequence[Image.Image], Sequence[str]], np.ndarray]  # cosines [images, captions]


def transformers_model(folder: Path) -> Scorer:
    """A model in transformers' files."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder, use_fast=False)

    def score(images: Sequence[Image.Image], captions: Sequence[str]) -> np.ndarray:
        options = {"return_tensors": "pt", "padding": "max_length", "truncation": True}
        inputs = processor(text=list(captions), images=list(images), **options)
        with torch.no_grad():
            output = model(**{name: value for name, value in inputs.items() if name in ("input_ids", "pixel_values")})
        return (output.image_embeds @ output.text_embeds.T).numpy()

    return score


def openclip_model(model: torch.nn.Module, size: int) -> Scorer:
    """An OpenCLIP model, with OpenAI's tokenizer and statistics."""
    transform = open_clip.image_transform(size, is_train=False)
    tokenizer = open_clip.SimpleTokenizer()

    def score(images: Sequence[Image.Image], captions: Sequence[str]) -> np.ndarray:
        with torch.no_grad():
            zimg_ID = model.encode_image(torch.stack([transform(image) for image in images]), normalize=True)
            ztxt_UD = model.encode_text(tokenizer(list(captions)), normalize=True)
        return (zimg_ID @ ztxt_UD.T).numpy()

    return score


def scores(root: Path, retrieval: Path, symmetric: Sequence[str], model: Scorer) -> dict[str, float]:
    """Metric -> score. ``root``: official files of SugarCrepe, Winoground and VG-Relation; ``retrieval``: a Karpathy
    split beside its images; ``symmetric``: relations that do not count."""
    return (
        {f"sugarcrepe/{subset}": _sugarcrepe(root, subset, model) for subset in SUBSETS}
        | _winoground(root / "winoground", model)
        | {"vg_relation/macro": _vg_relation(root / "aro", symmetric, model)}
        | _retrieval(retrieval, model)
    )


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _sugarcrepe(root: Path, subset: str, model: Scorer) -> float:
    right = []
    for item in json.loads((root / "sugarcrepe" / f"{subset}.json").read_text()).values():
        image = _open((root / "coco/val2017" / item["filename"]).read_bytes())
        true, false = model([image], [item["caption"], item["negative_caption"]])[0]
        right.append(true > false)
    return float(np.mean(right))


def _winoground(root: Path, model: Scorer) -> dict[str, float]:
    right = defaultdict(list)
    with zipfile.ZipFile(root / "images.zip") as archive:
        for line in (root / "data/examples.jsonl").read_text().splitlines():
            item = json.loads(line)
            images = [_open(archive.read(f"images/{item[f'image_{k}']}.png")) for k in (0, 1)]
            s = model(images, [item["caption_0"], item["caption_1"]])
            text = s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0]
            image = s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1]
            for name, value in (("text", text), ("image", image), ("group", text and image)):
                right[f"winoground/{name}"].append(value)
    return {name: float(np.mean(values)) for name, values in right.items()}


def _vg_relation(root: Path, symmetric: Sequence[str], model: Scorer) -> float:
    right = defaultdict(list)
    for item in json.loads((root / "visual_genome_relation.json").read_text()):
        x, y, w, h = (item[f"bbox_{side}"] for side in "xywh")
        image = _open((root / "images" / item["image_path"]).read_bytes()).crop((x, y, x + w, y + h))
        true, false = model([image], [item["true_caption"], item["false_caption"]])[0]
        right[item["relation_name"]].append(true > false)
    return float(np.mean([np.mean(values) for name, values in right.items() if name not in symmetric]))


def _retrieval(split: Path, model: Scorer) -> dict[str, float]:
    items = json.loads(split.read_text())
    images = [_open((split.parent / item["image"]).read_bytes()) for item in items]
    captions = [caption for item in items for caption in item["caption"]]
    owners = np.repeat(np.arange(len(items)), [len(item["caption"]) for item in items])
    s = model(images, captions)
    return {
        "coco_retrieval/image_to_text@1": float(np.mean(owners[s.argmax(1)] == np.arange(len(items)))),
        "coco_retrieval/text_to_image@1": float(np.mean(s.argmax(0) == owners)),
    }
