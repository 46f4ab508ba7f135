"""Position embeddings of the image tower for another image size.

Shape letters: L length (patches, and the class token), D width.
"""

import dataclasses

import jax
import jax.numpy as jnp

from naturel_jax.models.two_tower import Params, TwoTowerConfig


def resize_positions(config: TwoTowerConfig, params: Params, size: int) -> tuple[TwoTowerConfig, Params]:
    """The model for square images of ``size`` pixels: the grid of position embeddings resampled, the rest unchanged; a
    NaFlex model becomes one of fixed resolution.

    Antialiased bicubic with a class token (OpenCLIP's ``resize_pos_embed``), antialiased bilinear without (SigLIP 2's).
    """
    image = dataclasses.replace(config.image, size=size, naflex=False)
    position_LD, extra = params["image"]["position"], int(image.pool == "cls")
    old, new, width = config.image.grid, image.grid, position_LD.shape[1]
    method = "cubic" if extra else "linear"
    grid = jax.image.resize(position_LD[extra:].reshape(old, old, width), (new, new, width), method, antialias=True)
    position_LD = jnp.concatenate([position_LD[:extra], grid.reshape(new * new, width)])
    return dataclasses.replace(config, image=image), {**params, "image": {**params["image"], "position": position_LD}}
