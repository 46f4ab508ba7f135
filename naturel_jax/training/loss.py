"""Loss and gradient of a batch, optionally chunk by chunk, to save memory.

Shape letters: I images, U distinct captions, P patches that are kept, D embedding, N images or captions.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from naturel_jax import config
from naturel_jax.devices.sharding import BATCH_AXES
from naturel_jax.losses.batch import Batch, is_embedded
from naturel_jax.losses.objectives import OBJECTIVES
from naturel_jax.losses.parts import only
from naturel_jax.losses.terms.term import Embedded, values_of
from naturel_jax.losses.tiles import EXCHANGES, Layout
from naturel_jax.models import adapters, flops
from naturel_jax.models.two_tower import Model, Params, normalize
from naturel_jax.training import optim

Values = dict[str, jax.Array]  # term -> value, and term/grad_norm -> norm of its gradient on the embeddings


class Loss:
    """Loss of a batch, with the terms of ``config.objective.terms``, and its gradient, which is 0 for frozen
    parameters."""

    def __init__(
        self,
        options: config.Config,
        model: Model,
        mean_std: tuple[Any, Any],
        params: Params,
        mesh: Mesh,
        exchange: str = EXCHANGES[0],
    ):
        """``mean_std``: the processor's, per channel. Only the paths and shapes of ``params`` are used. ``exchange``:
        what ``config.objective.exchange`` is or has become (``choices.resolve``)."""
        objective = options.objective
        self.model, self.chunks, self._mean_std = model, objective.chunks, mean_std
        self._terms = objective.terms
        self.needs_base, self.of_average = objective.needs_base, objective.of_average
        self._drops_hard_images = any(term.drops_hard_images for term in objective.terms.values())
        self.adapter = options.adapter
        self._trained = adapters.weights_of_a_block(params) if self.adapter.rank else None
        self._factors = optim.multipliers(options.optim, params)
        self.layout = Layout(mesh, BATCH_AXES, objective.tile, exchange)
        self._objective = functools.partial(
            OBJECTIVES[objective.name].loss,
            counting=objective.counting,
            hard_negative_weight=objective.hard_negative_weight,
            label_smoothing=objective.label_smoothing,
            layout=self.layout,
        )

    def value_and_grad(
        self, params: Params, batch: Batch, base: Params | None = None
    ) -> tuple[tuple[jax.Array, Values], Params]:
        """((loss, terms), gradient): a float32 scalar; the unweighted value of each term of ``config.objective.terms``,
        with the norm of its gradient on the embeddings and that of the objective (as ``NAME/grad_norm``); and the
        gradient with respect to the parameters. With ``config.objective.chunks`` above 1, the same in the memory of one
        chunk: see ``value_and_grad_in_chunks``. ``base``: the parameters that training started from, if ``params`` are
        adapters of them or ``needs_base``; the average of ``params`` if ``of_average``."""
        base_z = self.embed(base, batch) if base is not None and self.needs_base else None
        merged = functools.partial(self.merged, base=base)
        if self.chunks > 1:
            return value_and_grad_in_chunks(self, merged, params, batch, base_z)

        def loss(params: Params) -> tuple[jax.Array, Values]:
            params = merged(params)
            return self.with_terms(params, *self.embed(params, batch), batch, base_z)

        return jax.value_and_grad(loss, has_aux=True)(params)

    def merged(self, params: Params, base: Params | None) -> Params:
        """The model's parameters: ``params``, or adapters merged with their ``base``. ``stop_gradient`` on frozen ones
        lets XLA drop their part of the backward pass; the lowest frozen blocks have none anyway."""

        def stopped(p: jax.Array, factor: float | np.ndarray) -> jax.Array:
            if np.any(factor) and not np.all(factor):  # some blocks
                return jnp.where(optim.by_block(factor, p) == 0, jax.lax.stop_gradient(p), p)
            return p if np.all(factor) else jax.lax.stop_gradient(p)

        params = jax.tree.map(stopped, params, self._factors)
        return adapters.merged(base, params, self.adapter.scale) if base and self.adapter.rank else params

    def embed(self, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Unit embeddings [I, D] of the batch's images and [U, D] of its captions, float32."""
        rows = (batch.images, batch.patches_IP)
        if self.chunks == 1:
            return self.embed_images(params, rows), self.embed_captions(params, batch.tokens)
        images, tokens = _split(rows, self.chunks), _split(batch.tokens, self.chunks)
        return (
            _merge(jax.lax.map(functools.partial(self.embed_images, params), images)),
            _merge(jax.lax.map(functools.partial(self.embed_captions, params), tokens)),
        )

    def embed_images(self, params: Params, rows: tuple[Any, jax.Array | None]) -> jax.Array:
        """Embeddings [I, D] of (images, patches_IP) of a batch or a chunk."""
        images, patches_IP = rows
        if is_embedded(images):
            return images
        pixels = normalize(images, *self._mean_std)
        return self.model.encode_image(params, pixels, patches_IP)

    def embed_captions(self, params: Params, tokens: jax.Array) -> jax.Array:
        """Embeddings [U, D] of the tokens of a batch or a chunk."""
        if is_embedded(tokens):
            return tokens
        return self.model.encode_text(params, tokens)

    def from_embeddings(self, params: Params, zimg_ID: jax.Array, zcap_UD: jax.Array, batch: Batch) -> jax.Array:
        """The objective without terms of the given embeddings, a float32 scalar; only scale and bias are read from
        ``params``, and have gradients here even if they are frozen (``merged`` stops those)."""
        images, captions = batch.image_labels, batch.caption_labels
        if images.exchanged_I is not None:
            images = only(images, ~images.exchanged_I, as_columns=not self._drops_hard_images)
        scale, bias = _scale_and_bias(params)
        return self._objective(zimg_ID, zcap_UD, scale=scale, bias=bias, images=images, captions=captions)

    def with_terms(
        self,
        params: Params,
        zimg_ID: jax.Array,
        zcap_UD: jax.Array,
        batch: Batch,
        base: tuple[jax.Array, jax.Array] | None,
    ) -> tuple[jax.Array, Values]:
        """The loss of the given embeddings; the value of each term, and the norms of their gradients on embeddings."""
        loss, labels = self.from_embeddings(params, zimg_ID, zcap_UD, batch), (batch.image_labels, batch.caption_labels)
        if not self._terms:
            return loss, {}
        scale, bias = _scale_and_bias(params)
        embedded = Embedded(zimg_ID, zcap_UD, scale, bias, *labels, self.layout, base)
        values = values_of(self._terms, embedded)
        loss += sum(term.weight * values[name] for name, term in self._terms.items())
        fixed = jax.lax.stop_gradient(params)
        parts = {"objective": lambda z: self.from_embeddings(fixed, z.zimg_ID, z.zcap_UD, batch), **self._terms}
        return loss, values | {f"{name}/grad_norm": _grad_norm(part, embedded) for name, part in parts.items()}

    def step_flops(self, batch: Batch) -> flops.Step:
        """FLOPs of a training step on ``batch``, arrays or ``jax.ShapeDtypeStruct``."""
        compute, rows = self.model.compute, (batch.images_to_embed, *batch.captions_to_embed)
        frozen = (compute.frozen_image, compute.frozen_text)
        patches = batch.patches_to_embed
        step = flops.step(self.model.config, *rows, patches=patches, frozen=frozen, trained=self._trained)
        return step._replace(base=step.forward) if self.needs_base else step


def _scale_and_bias(params: Params) -> tuple[jax.Array, jax.Array]:
    return jnp.exp(params["logit_scale"]), params.get("logit_bias", jnp.float32(0))


def _grad_norm(part: Callable[[Embedded], jax.Array], z: Embedded) -> jax.Array:
    """Norm of the gradient of a part of the loss on the embeddings."""
    zimg_ID, zcap_UD, scale, bias = jax.lax.stop_gradient(z[:4])
    fixed = z._replace(scale=scale, bias=bias)

    def value(zimg_ID: jax.Array, zcap_UD: jax.Array) -> jax.Array:
        return part(fixed._replace(zimg_ID=zimg_ID, zcap_UD=zcap_UD))

    return optax.tree.norm(jax.grad(value, (0, 1))(zimg_ID, zcap_UD))


def value_and_grad_in_chunks(
    loss: Loss, merged: Callable, params: Params, batch: Batch, base: tuple[jax.Array, jax.Array] | None
) -> tuple[tuple[jax.Array, Values], Params]:
    """The exact loss and gradient of the whole batch in the memory of one chunk (GradCache, arXiv 2101.06983).

    The embeddings of the whole batch are computed first, without keeping activations; then the gradient of the loss
    with respect to the embeddings; then, chunk by chunk, the gradient with respect to the parameters. ``merged``:
    ``Loss.merged`` with its base; ``base``: see ``Embedded``.
    """
    zimg_ID, zcap_UD = loss.embed(merged(params), batch)
    of_embeddings = jax.value_and_grad(
        lambda params, zimg, zcap: loss.with_terms(merged(params), zimg, zcap, batch, base), (0, 1, 2), has_aux=True
    )
    value, (gradient, dzimg_ID, dzcap_UD) = of_embeddings(params, zimg_ID, zcap_UD)

    def add_gradients(gradient: Params, encode: Callable, rows: Any, upstream: jax.Array) -> Params:
        def add(gradient: Params, chunk: tuple[Any, jax.Array]) -> tuple[Params, None]:
            _, vjp = jax.vjp(lambda params: encode(merged(params), chunk[0]), params)
            return jax.tree.map(jnp.add, gradient, vjp(chunk[1])[0]), None

        return jax.lax.scan(add, gradient, _split((rows, upstream), loss.chunks))[0]

    gradient = add_gradients(gradient, loss.embed_images, (batch.images, batch.patches_IP), dzimg_ID)
    return value, add_gradients(gradient, loss.embed_captions, batch.tokens, dzcap_UD)


def _split(rows: Any, chunks: int) -> Any:
    """[N, ...] -> [chunks, N / chunks, ...]; the planner pads N to a multiple of devices times chunks. Each chunk takes
    a part of every device's block, so no row moves."""
    return jax.tree.map(lambda x: x.reshape(-1, chunks, *x.shape[1:]).swapaxes(0, 1), rows)


def _merge(chunks: jax.Array) -> jax.Array:
    """Inverse of ``_split``."""
    return chunks.swapaxes(0, 1).reshape(-1, *chunks.shape[2:])
