"""Loads exported folders as their users do: in a process that has only the libraries.

``python exports_process.py JOBS OUT`` runs every job of the file JOBS: JSON with ``captions``, paths of ``images``, and
``jobs``, name -> [function below, its arguments]. Each returns arrays, which are written to OUT (npz) as
``<name>/<array>``.
"""

import json
import os
import sys
import warnings

import numpy as np
import torch
from PIL import Image

torch.set_num_threads(2)
warnings.simplefilter("ignore")
PADDING = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}


def transformers_model(images, captions, path):
    """Everything that the processor returns goes to the model."""
    from transformers import AutoModel, AutoProcessor

    model, processor = AutoModel.from_pretrained(path).eval(), AutoProcessor.from_pretrained(path, backend="pil")
    batch = processor(images=images, text=captions, **PADDING)
    out = model(**batch)
    default = AutoProcessor.from_pretrained(path).image_processor(images, return_tensors="pt")
    return {"logits": out.logits_per_image, "pixels": batch["pixel_values"], "default_pixels": default["pixel_values"]}


def clip_towers(images, captions, path):
    """Each tower alone, loaded from the file of both."""
    from transformers import AutoProcessor, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    processor = AutoProcessor.from_pretrained(path, backend="pil")
    texts = processor(text=captions, **PADDING)
    pixels = processor.image_processor(images, return_tensors="pt")
    ztxt = CLIPTextModelWithProjection.from_pretrained(path).eval()(**texts).text_embeds
    zimg = CLIPVisionModelWithProjection.from_pretrained(path).eval()(**pixels).image_embeds
    return {"images": torch.nn.functional.normalize(zimg), "texts": torch.nn.functional.normalize(ztxt)}


def pipeline_scores(images, captions, path, context):
    """``context``: the text length to give to a SigLIP as the model card says, or None. The pipeline does not truncate
    texts, so it gets the short captions."""
    from transformers import AutoImageProcessor, pipeline

    exact = AutoImageProcessor.from_pretrained(path, backend="pil")
    classifier = pipeline("zero-shot-image-classification", model=path, image_processor=exact)
    if context:
        tokenizer = classifier.tokenizer
        classifier.tokenizer = lambda texts, **kwargs: tokenizer(texts, **kwargs | {"max_length": context})
    captions = [caption for caption in captions if len(caption) < 40]
    out = classifier(images[:2], candidate_labels=captions, hypothesis_template="{}")
    found = [{row["label"]: row["score"] for row in rows} for rows in out]
    return {"scores": np.array([[scores[caption] for caption in captions] for scores in found])}


def sentence_embeddings(images, captions, path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, processor_kwargs={"backend": "pil"})
    zimg, ztxt = (model.encode(part, normalize_embeddings=True) for part in (images, captions))
    return {"images": zimg, "texts": ztxt}


def openclip_model(images, captions, name):
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    zimg = model.encode_image(torch.stack([transform(image) for image in images]), normalize=True)
    ztxt = model.encode_text(tokenizer(captions), normalize=True)
    bias = 0 if getattr(model, "logit_bias", None) is None else model.logit_bias
    return {"logits": model.logit_scale.exp() * zimg @ ztxt.T + bias}


def snippet(images, captions, code, folder):
    """Runs the code of a model card in its folder, with a photo for its red image: resizing makes no difference to a
    single colour. Returns the scores that it prints."""
    red = 'Image.new("RGB", (640, 480), "red")'
    assert red in code
    printed = []
    names = {"print": printed.append}
    here = os.getcwd()
    os.chdir(folder)
    try:
        exec(compile(code.replace(red, f"Image.open({images[1].filename!r})"), f"{folder}/README.md", "exec"), names)
    finally:
        os.chdir(here)
    (scores,) = printed
    if isinstance(scores, list):  # the pipeline's, the best first
        found = {row["label"]: row["score"] for row in scores}
        scores = [[found[caption] for caption in names["captions"]]]
    return {"scores": scores}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        work = json.load(file)
    images = [Image.open(path) for path in work["images"]]
    arrays = {}
    with torch.no_grad():
        for name, (function, arguments) in work["jobs"].items():
            for key, value in globals()[function](images, work["captions"], *arguments).items():
                arrays[f"{name}/{key}"] = np.asarray(value)
    ours = [name for name in sys.modules if name.partition(".")[0] in ("naturel_jax", "tfds_naturel", "jax")]
    assert not ours, f"this process was meant to know nothing of {ours}"
    np.savez(sys.argv[2], **arrays)


if __name__ == "__main__":
    main()
