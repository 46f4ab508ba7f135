"""FLOPs that the model itself needs, counted analytically, and the peak of each accelerator: together they give the
model FLOPs utilization (MFU) of PaLM, arXiv 2204.02311, appendix B.

A multiply-add counts as 2. Only matrix products count: normalization, activations, softmax and the loss are less than
1 % of a step. Attention counts in full for causal towers too, and recomputation (remat, chunks) does not count.
"""

from typing import NamedTuple

from naturel_jax.models.transformer import TransformerConfig
from naturel_jax.models.two_tower import TwoTowerConfig

# Dense peak FLOP/s of one device by ``jax.Device.device_kind`` and dtype of the activations. NVIDIA's data sheets
# print rates with 2:4 sparsity, twice the dense ones. A float32 product runs as TF32 on these GPUs (XLA's default
# precision); TPUs have no published float32 rate.
_H100_SXM = {"bfloat16": 989e12, "float16": 989e12, "float32": 495e12}  # NVIDIA H100 data sheet; H200's is the same
_A100 = {"bfloat16": 312e12, "float16": 312e12, "float32": 156e12}  # NVIDIA A100 data sheet, all forms
_V5E, _V5P, _V6E = {"bfloat16": 197e12}, {"bfloat16": 459e12}, {"bfloat16": 918e12}  # cloud.google.com/tpu/docs

PEAKS: dict[str, dict[str, float]] = {
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA H100 80GB HBM3": _H100_SXM,
    "NVIDIA H100 PCIe": {"bfloat16": 756e12, "float16": 756e12, "float32": 378e12},
    "NVIDIA H200": _H100_SXM,
    "NVIDIA L4": {"bfloat16": 121e12, "float16": 121e12, "float32": 60e12},  # NVIDIA L4 data sheet
    "TPU v4": {"bfloat16": 275e12},  # cloud.google.com/tpu/docs/v4
    # JAX has two spellings of each of these (jax/_src/pallas/mosaic/tpu_info.py).
    "TPU v5 lite": _V5E,
    "TPU v5e": _V5E,
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
    "TPU7x": {"bfloat16": 1153.5e12},  # a device is half a chip of 2307e12: cloud.google.com/tpu/docs/tpu7x
}


def peak(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of one device for matrix products of ``dtype``; None if it is unknown."""
    return PEAKS.get(device_kind, {}).get(dtype)


def transformer_flops(config: TransformerConfig, length: int, blocks: int | None = None) -> float:
    """Forward FLOPs of one sequence of ``length`` positions, in all blocks or so many.

    For each block and position: 2 for each weight of the kernels (4 D^2 of attention, 2 D M of the MLP), and 2 D for
    each position attended to, once for the logits and once for the values (Kaplan et al., arXiv 2001.08361, table 1,
    with attention in full).
    """
    kernels = 4 * config.width**2 + 2 * config.width * config.mlp_dim
    blocks = config.depth if blocks is None else blocks
    return blocks * length * (2 * kernels + 4 * length * config.width)


def image_flops(config: TwoTowerConfig, patches: int | None = None, blocks: int | None = None) -> float:
    """Forward FLOPs of one image: patches, blocks, pooling head and projection. ``patches``: how many of them go
    through the blocks (default: all). ``blocks``: only the patch embedding and so many of the lowest blocks."""
    image = config.image
    width, patches = image.transformer.width, image.grid**2 if patches is None else patches
    flops = 2.0 * image.grid**2 * 3 * image.patch**2 * width
    flops += transformer_flops(image.transformer, patches + (image.pool == "cls"), blocks)
    if blocks is not None:
        return flops
    if image.pool == "map":  # keys and values of every patch; query, output and MLP of the one probe
        flops += patches * 4 * width**2 + 4 * patches * width
        flops += 4 * width**2 + 4 * width * image.transformer.mlp_dim
    return flops + image.projection * 2 * width * config.embed_dim


def text_flops(config: TwoTowerConfig, tokens: int | None = None, blocks: int | None = None) -> float:
    """Forward FLOPs of one caption of ``tokens`` positions (default: the full context), in all blocks and the
    projection. ``blocks``: only so many of the lowest blocks."""
    transformer = config.text.transformer
    flops = transformer_flops(transformer, config.text.context if tokens is None else tokens, blocks)
    return flops + (2 * transformer.width * config.embed_dim if blocks is None else 0)


class Step(NamedTuple):
    """Forward FLOPs of a training step, and those of the part that has no backward pass."""

    forward: float
    frozen: float

    @property
    def model(self) -> float:
        """Forward and backward: each product in the forward pass needs two in the backward pass, one for the gradient
        of each factor, and none where it is frozen."""
        return 3 * self.forward - 2 * self.frozen

    def computed(self, remat: str, chunks: int) -> float:
        """With what a step computes again: ``full`` recomputation what has a backward pass, chunks everything. "dots"
        computes no product of weights again."""
        return self.model + (remat == "full") * (self.forward - self.frozen) + (chunks > 1) * self.forward


def step(
    config: TwoTowerConfig,
    images: int,
    captions: int,
    tokens: int | None = None,
    *,
    patches: int | None = None,
    frozen: tuple[int, int] = (0, 0),
) -> Step:
    """A step on ``images``, of which ``patches`` go through the blocks (default: all), and ``captions`` of ``tokens``
    positions (default: the full context). ``frozen``: lowest blocks of the image and of the text tower without a
    backward pass."""
    forward = images * image_flops(config, patches) + captions * text_flops(config, tokens)
    without = captions * text_flops(config, tokens, frozen[1])
    if frozen[0]:
        without += images * image_flops(config, patches, frozen[0])
    return Step(forward, without)
