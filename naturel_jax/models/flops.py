"""FLOPs that the model itself needs, counted analytically. With an accelerator's peak (``devices/hardware.py``), they
give the model FLOPs utilization (MFU) as in PaLM, arXiv 2204.02311, appendix B.

A multiply-add counts as 2. Only matrix products count: normalization, activations, softmax and the loss are less than
1 % of a step. Attention counts in full for causal towers too, and recomputation (remat, chunks) does not count.
"""

from typing import NamedTuple

from naturel_jax.models.transformer import TransformerConfig
from naturel_jax.models.two_tower import TwoTowerConfig


def transformer_flops(config: TransformerConfig, length: int, blocks: int | None = None) -> float:
    """Forward FLOPs of one sequence of ``length`` positions, in all blocks or the given number.

    Per block and position: 2 per weight of the kernels (4 D^2 of attention, 2 D M of the MLP), and 2 D per position
    attended to, once for the logits and once for the values (Kaplan et al., arXiv 2001.08361, table 1, with attention
    in full).
    """
    blocks = config.depth if blocks is None else blocks
    return blocks * length * (2 * _weights(config) + 4 * length * config.width)


def _weights(config: TransformerConfig) -> int:
    """Number of weights of a block's kernels."""
    return 4 * config.width**2 + 2 * config.width * config.mlp_dim


def image_flops(config: TwoTowerConfig, patches: int | None = None, blocks: int | None = None) -> float:
    """Forward FLOPs of one image: patches, blocks, pooling head and projection. ``patches``: how many of them go
    through the blocks (default: all), for a NaFlex tower with padding. ``blocks``: only the patch embedding and this
    many of the lowest blocks."""
    image = config.image
    width, patches = image.transformer.width, image.grid**2 if patches is None else patches
    flops = 2.0 * (patches if image.naflex else image.grid**2) * 3 * image.patch**2 * width
    flops += image.naflex * 2 * patches * image.grid**2 * width  # positions are resized
    flops += transformer_flops(image.transformer, patches + (image.pool == "cls"), blocks)
    if blocks is not None:
        return flops
    if image.pool == "map":  # keys and values of every patch; query, output and MLP of the one probe
        flops += patches * 4 * width**2 + 4 * patches * width
        flops += 4 * width**2 + 4 * width * image.transformer.mlp_dim
    return flops + image.projection * 2 * width * config.embed_dim


def text_flops(config: TwoTowerConfig, tokens: int | None = None, blocks: int | None = None) -> float:
    """Forward FLOPs of one caption of ``tokens`` positions (default: the full context), in all blocks and the
    projection. ``blocks``: only this many of the lowest blocks."""
    transformer = config.text.transformer
    flops = transformer_flops(transformer, config.text.context if tokens is None else tokens, blocks)
    return flops + (2 * transformer.width * config.embed_dim if blocks is None else 0)


class Step(NamedTuple):
    """Forward FLOPs of a training step, those of the part that has no backward pass, those of a second forward pass
    with the parameters that training started from (``config.objective.terms``), and those of products whose weights
    have no gradient but whose inputs do."""

    forward: float
    frozen: float
    base: float = 0.0
    fixed: float = 0.0

    @property
    def model(self) -> float:
        """Forward and backward FLOPs: each product in the forward pass needs two in the backward pass, one for the
        gradient of each factor, and none where it is frozen."""
        return 3 * self.forward - 2 * self.frozen + self.base - self.fixed

    def computed(self, remat: str, chunks: int) -> float:
        """FLOPs including recomputation: ``remat`` "full" recomputes whatever has a backward pass, chunks recompute
        everything. "dots" recomputes no product with weights."""
        return self.model + (remat == "full") * (self.forward - self.frozen) + (chunks > 1) * self.forward


def step(
    config: TwoTowerConfig,
    images: int,
    captions: int,
    tokens: int | None = None,
    *,
    patches: int | None = None,
    frozen: tuple[int, int] = (0, 0),
    trained: tuple[int, int] | None = None,
) -> Step:
    """A step on ``images``, of which ``patches`` go through the blocks (default: all), and ``captions`` of ``tokens``
    positions (default: the full context). ``frozen``: lowest blocks of the image and of the text tower without a
    backward pass. ``trained``: number of weights of a block of each that have a gradient (default: all)."""
    forward = images * image_flops(config, patches) + captions * text_flops(config, tokens)
    without = captions * text_flops(config, tokens, frozen[1])
    if frozen[0]:
        without += images * image_flops(config, patches, frozen[0])
    fixed = 0.0
    if trained is not None:
        image, text = config.image.transformer, config.text.transformer
        length = (config.image.grid**2 if patches is None else patches) + (config.image.pool == "cls")
        positions = images * length, captions * (config.text.context if tokens is None else tokens)
        for tower, count, first, weights in zip((image, text), positions, frozen, trained, strict=True):
            fixed += 2 * count * (tower.depth - first) * (_weights(tower) - weights)
    return Step(forward, without, fixed=fixed)
