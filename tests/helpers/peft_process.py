"""PEFT as its users run it: in a process that has only torch's libraries.

``python peft_process.py JOBS OUT``: JOBS is a JSON list of {"name", "base", "adapter", "inputs"}: the folders of a
transformers model and of an adapter, and an npz of ``pixels`` [I, 3, S, S] and ``tokens`` [U, L]. OUT (npz) gets
``<name>/images`` and ``<name>/texts``, unit embeddings, and ``<name>/logits``. With "train", options of ``LoraConfig``,
the adapter is trained for some steps first, and written.
"""

import json
import sys
import warnings

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel

torch.set_num_threads(2)
warnings.simplefilter("error", UserWarning)  # of keys that are missing or not known


def train(base, options, inputs, folder):
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(**options))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(3):
        logits = model(**inputs).logits_per_image
        (-torch.log_softmax(logits, 1)[:, 0].mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return model


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    found = {}
    for job in jobs:
        arrays = np.load(job["inputs"])
        inputs = {"pixel_values": torch.tensor(arrays["pixels"]), "input_ids": torch.tensor(arrays["tokens"]).long()}
        model = AutoModel.from_pretrained(job["base"])
        if options := job.get("train"):
            model = train(model, options, inputs, job["adapter"])
        else:
            model = PeftModel.from_pretrained(model, job["adapter"])
        with torch.no_grad():
            out = model.eval()(**inputs)
        for name, value in (("images", out.image_embeds), ("texts", out.text_embeds), ("logits", out.logits_per_image)):
            found[f"{job['name']}/{name}"] = value.numpy()
    assert not [name for name in sys.modules if name.partition(".")[0] in ("naturel_jax", "jax")]
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
