"""Writes docs/models.md: every preset with its sizes, the memory that training it takes, and its published weights.

python .ci/models.py      # make pages; a minute
"""

import math
from collections.abc import Iterable
from pathlib import Path

import jax

from naturel_jax.devices.hardware import GIB
from naturel_jax.models.presets import PRESETS, published
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model, TwoTowerConfig
from naturel_jax.training import memory

IMAGES, CAPTIONS = 64, 128  # the batch whose memory the table gives
_BYTES = 16  # a float32 parameter, its gradient and AdamW's two moments

HEAD = f"""# Models and sizes

A model is named by where its weights are (`config.init`, `naturel_jax.load`, `naturel-evaluate`); its sizes come with
them, so any CLIP, OpenCLIP, SigLIP or SigLIP 2 checkpoint loads, whether its size is listed here or not.
The names in the first column are needed in two places: `config.preset` starts from random parameters of that size, and
`NAME:FILE` names the architecture of a file without a config (`negclip-b32:negclip.pth`).

- **Parameters** are in millions: image tower, text tower.
- **Pixels** are a side of the square image, and of a patch. **Embedding** is its width; **context** is in tokens.
- **Memory** is in GiB on one device, in bfloat16 with AdamW. *Always*: parameters, gradients and both moments, in
  float32. *None* and *full*: what a batch of {IMAGES} images and {CAPTIONS} captions of full length needs besides, with
  nothing recomputed and with everything recomputed (`config.compute.remat`). It grows with the batch; halve it with
  `config.objective.chunks=2`, and share *always* among devices with `config.mesh.fsdp`.

The memory is the estimate by which `config.compute.remat='auto'` decides, which allows for {memory.MARGINS["none"]}
times *none* and {memory.MARGIN} times *full*: compilers pad and copy. [`naturel-plan`](plan.md) asks the compiler.

| preset | parameters | pixels | embedding | context | always | none | full |
|---|---:|---:|---:|---:|---:|---:|---:|
"""
TAIL = """
A number for your own config, with its recipe, batch and devices:

```bash title="needs the extra plan-gpu"
naturel-plan --config negclip_ap --topology h100x8 --config.init=hf:openai/clip-vit-large-patch14
```

## Where the weights are

OpenCLIP's weights load as `open_clip:OWNER/NAME`, whatever their size; `laion-b32-quickgelu` is for its files of
`laion400m`. NegCLIP's file is on the Google Drive of ARO's repository. `tiny-clip` and `tiny-siglip` are trained from
scratch on the drawn world, in minutes on a CPU.

| preset | published weights |
|---|---|
"""

# Weights whose names on the hub do not say the preset.
_LAION = "open_clip:laion/CLIP-ViT-"
_ELSEWHERE = {
    "tiny-clip": "",
    "tiny-siglip": "",
    "tiny-naflex": "",
    "negclip-b32": "negclip-b32:FILE",
    "laion-b32": f"{_LAION}B-32-laion2B-s34B-b79K",
    "laion-b32-quickgelu": "laion-b32-quickgelu:FILE",
    "laion-b16": f"{_LAION}B-16-laion2B-s34B-b88K",
    "laion-l14": f"{_LAION}L-14-laion2B-s32B-b82K",
    "laion-h14": f"{_LAION}H-14-laion2B-s32B-b79K",
    "laion-g14": f"{_LAION}g-14-laion2B-s34B-b88K",
    "siglip-b16-256-i18n": "hf:google/siglip-base-patch16-256-multilingual",
}
_NAMES = {"b": "base-patch", "l": "large-patch", "so400m": "so400m-patch", "g": "giant-opt-patch"}


def weights(preset: str) -> str:
    """The source that `naturel_jax.load` reads for a preset's published weights; empty if there are none."""
    if preset in _ELSEWHERE:
        return _ELSEWHERE[preset]
    family, size, *pixels = preset.split("-")
    letters = size.rstrip("0123456789")
    name = _NAMES[letters] + size.removeprefix(letters) + "".join(f"-{n}" for n in pixels)
    source = f"hf:openai/clip-vit-{name}" if family == "clip" else f"hf:google/{family}-{name}"
    assert published(source) == PRESETS[preset], source
    return source


def row(preset: str, sizes: TwoTowerConfig) -> str:
    """A row of the first table."""
    parameters = {
        name: sum(math.prod(x.shape) for x in jax.tree.leaves(x)) for name, x in Model(sizes).shapes().items()
    }
    batch = [
        memory.activations(Model(sizes, Compute("bfloat16", remat, flat=False)), IMAGES, CAPTIONS, sizes.text.context)
        for remat in ("none", "full")
    ]
    needs = [_BYTES * sum(parameters.values()), *batch]
    millions = [f"{parameters[tower] / 1e6:.1f}" for tower in ("image", "text")]
    cells = (
        f"`{preset}`",
        " + ".join(millions),
        f"{sizes.image.size} / {sizes.image.patch}",
        sizes.embed_dim,
        sizes.text.context,
        *(f"{size / GIB:.2f}" for size in needs),
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def page(presets: Iterable[str] = PRESETS) -> str:
    """The page, with a row for each of ``presets`` in both tables."""
    sources = {name: source for name in presets if (source := weights(name))}
    rows = [f"| `{name}` | `{source}` |\n" for name, source in sources.items()]
    return HEAD + "".join(row(name, PRESETS[name]) for name in presets) + TAIL + "".join(rows)


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs/models.md").write_text(page(), "utf-8")
