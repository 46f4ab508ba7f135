"""Loss and gradient of a batch, optionally in the memory of a single chunk."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from naturel_jax import config
from naturel_jax.devices.sharding import BATCH_AXES
from naturel_jax.losses.batch import Batch, is_embedded
from naturel_jax.losses.objectives import OBJECTIVES
from naturel_jax.losses.tiles import Layout
from naturel_jax.models import flops
from naturel_jax.models.two_tower import Model, Params, normalize
from naturel_jax.training import optim


class Loss:
    """Loss and gradient of a batch.

    With ``config.objective.chunks`` above 1, the embeddings of the whole batch are computed first, without keeping
    activations; then the gradient of the loss with respect to the embeddings; then, chunk by chunk, the gradient with
    respect to the parameters (GradCache, arXiv 2101.06983). This gives the exact loss and gradient of the whole batch
    in the memory of one chunk.
    """

    def __init__(self, options: config.Config, model: Model, mean_std: tuple[Any, Any], params: Params, mesh: Mesh):
        """``mean_std``: the processor's, per channel. Only the paths and shapes of ``params`` are used. Raises
        ValueError if ``config.objective.exchange`` is ``auto``: see ``exchange.choose``."""
        self.model, self._chunks, self._mean_std = model, options.objective.chunks, mean_std
        self._factors = optim.multipliers(options.optim, params)
        objective = options.objective
        self.layout = Layout(mesh, BATCH_AXES, objective.tile, objective.exchange)
        self._objective = functools.partial(
            OBJECTIVES[objective.name].loss,
            counting=objective.counting,
            hard_negative_weight=objective.hard_negative_weight,
            label_smoothing=objective.label_smoothing,
            layout=self.layout,
        )

    def _stop_frozen_gradients(self, params: Params) -> Params:
        """Lets the compiler drop what only the gradients of frozen parameters would need."""

        def stopped(p: jax.Array, factor: float | np.ndarray) -> jax.Array:
            if np.all(factor):
                return p
            if np.any(factor):  # some blocks
                return jnp.where(optim.by_block(factor, p) == 0, jax.lax.stop_gradient(p), p)
            return jax.lax.stop_gradient(p)

        return jax.tree.map(stopped, params, self._factors)

    def _image(self, params: Params, rows: tuple[jax.Array, jax.Array | None]) -> jax.Array:
        images, patches_IP = rows
        if is_embedded(images):
            return images
        pixels = normalize(images, *self._mean_std)
        return self.model.encode_image(self._stop_frozen_gradients(params), pixels, patches_IP)

    def _text(self, params: Params, tokens: jax.Array) -> jax.Array:
        if is_embedded(tokens):
            return tokens
        return self.model.encode_text(self._stop_frozen_gradients(params), tokens)

    def from_embeddings(self, params: Params, zimg_ID: jax.Array, zcap_UD: jax.Array, batch: Batch) -> jax.Array:
        """The loss of the given embeddings, a float32 scalar; only scale and bias are read from ``params``."""
        params = self._stop_frozen_gradients(params)
        scale, bias = jnp.exp(params["logit_scale"]), params.get("logit_bias", jnp.float32(0))
        labels = {"images": batch.image_labels, "captions": batch.caption_labels}
        return self._objective(zimg_ID, zcap_UD, scale=scale, bias=bias, **labels)

    def __call__(self, params: Params, batch: Batch) -> jax.Array:
        """The loss, a float32 scalar."""
        return self.from_embeddings(params, *self.embed(params, batch), batch)

    def embed(self, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Unit embeddings [I, D] of the batch's images and [U, D] of its captions, float32."""
        rows = (batch.images, batch.patches_IP)
        if self._chunks == 1:
            return self._image(params, rows), self._text(params, batch.tokens)
        images, tokens = self._split(rows), self._split(batch.tokens)
        return (
            _merge(jax.lax.map(functools.partial(self._image, params), images)),
            _merge(jax.lax.map(functools.partial(self._text, params), tokens)),
        )

    def value_and_grad(self, params: Params, batch: Batch) -> tuple[jax.Array, Params]:
        """The loss and its gradient with respect to the parameters."""
        if self._chunks == 1:
            return jax.value_and_grad(self)(params, batch)
        zimg_ID, zcap_UD = self.embed(params, batch)
        loss = jax.value_and_grad(self.from_embeddings, argnums=(0, 1, 2))
        value, (gradient, dzimg_ID, dzcap_UD) = loss(params, zimg_ID, zcap_UD, batch)
        rows = (batch.images, batch.patches_IP)
        gradient = self._add_gradients(gradient, self._image, params, rows, dzimg_ID)
        return value, self._add_gradients(gradient, self._text, params, batch.tokens, dzcap_UD)

    def step_flops(self, batch: Batch) -> flops.Step:
        """FLOPs of a training step on ``batch``, arrays or ``jax.ShapeDtypeStruct``."""
        compute, rows = self.model.compute, (batch.images_to_embed, *batch.captions_to_embed)
        frozen = (compute.frozen_image, compute.frozen_text)
        return flops.step(self.model.config, *rows, patches=batch.patches_to_embed, frozen=frozen)

    def _add_gradients(self, gradient: Params, encode: Callable, params: Params, rows: Any, upstream: Any) -> Params:
        def add(gradient: Params, chunk: tuple[Any, jax.Array]) -> tuple[Params, None]:
            _, vjp = jax.vjp(lambda params: encode(params, chunk[0]), params)
            return jax.tree.map(jnp.add, gradient, vjp(chunk[1])[0]), None

        return jax.lax.scan(add, gradient, self._split((rows, upstream)))[0]

    def _split(self, rows: Any) -> Any:
        """[N, ...] -> [chunks, N / chunks, ...]. Each chunk takes a part of every device's block, so no row moves."""
        return jax.tree.map(lambda x: x.reshape(-1, self._chunks, *x.shape[1:]).swapaxes(0, 1), rows)


def _merge(chunks: jax.Array) -> jax.Array:
    """Inverse of ``Loss._split``."""
    return chunks.swapaxes(0, 1).reshape(-1, *chunks.shape[2:])
