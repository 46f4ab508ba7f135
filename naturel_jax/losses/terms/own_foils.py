"""Each image's positives against the negatives that were sampled for that image, and nothing else of the batch.

Shape letters: I images, U distinct captions, K captions sampled per image: P positives and N negatives, C = 1 + N
classes, D embedding.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from naturel_jax.config.settings import at_least, fraction, one_of, setting
from naturel_jax.losses.objectives import FLOOR
from naturel_jax.losses.terms.term import Embedded, Term, caption_rows, masked_mean, mean_over_images


class _Own(NamedTuple):
    """Logits of each image's own captions, whether they are captions or padding, and whether the image counts."""

    positive_IP: jax.Array
    foil_IN: jax.Array
    is_positive_IP: jax.Array
    is_foil_IN: jax.Array
    counts_I: jax.Array


@dataclasses.dataclass(frozen=True)
class OwnFoils(Term):
    """Mean over images of the mean over their positives of ``_FORMS[form]``, the cost of a positive and the image's
    foils. Images without a positive or without a negative, such as the sentinel, do not count. A caption that was
    sampled twice counts twice."""

    sampled = (1, 1)
    form: str = setting(
        "softmax",
        "cost of a positive and the image's negatives",
        one_of("softmax", "focal", "sigmoid", "hinge", "adaptive_hinge"),
    )
    gamma: float = setting(2.0, "exponent of focal", at_least(1))
    smoothing: float = setting(0.02, "label smoothing of focal", fraction())
    missing: str = setting(
        "left_out",
        "in focal, the negatives that an image has fewer than another: left out, or classes of logit 0 (FSC-CLIP's "
        "code)",
        one_of("left_out", "zero_logit"),
    )
    margin: float = setting(2.0, "margin of hinge, in logits", at_least(0))
    margin_limit: float = setting(10.0, "largest margin of adaptive_hinge", at_least(0))

    def __call__(self, z: Embedded) -> jax.Array:
        def logits(ids_IK: jax.Array) -> jax.Array:
            zcap_IKD = z.zcap_UD[caption_rows(z, ids_IK)]
            return z.scale * jnp.einsum("id,ikd->ik", z.zimg_ID, zcap_IKD, precision="highest")

        positives_IP, negatives_IN = z.images.positives_IK, z.images.negatives_IK
        is_positive_IP, is_foil_IN = positives_IP >= 0, negatives_IN >= 0
        counts_I = is_positive_IP.any(1) & is_foil_IN.any(1)
        own = _Own(logits(positives_IP), logits(negatives_IN), is_positive_IP, is_foil_IN, counts_I)
        cost_IP = _FORMS[self.form](self, z, own)
        return mean_over_images(masked_mean(cost_IP, is_positive_IP), counts_I, z)


def _softmax(options: OwnFoils, z: Embedded, own: _Own) -> jax.Array:
    del options, z
    foils_I = jax.nn.logsumexp(jnp.where(own.is_foil_IN, own.foil_IN, FLOOR), axis=1)
    return jnp.logaddexp(foils_I[:, None], own.positive_IP) - own.positive_IP


def _focal(options: OwnFoils, z: Embedded, own: _Own) -> jax.Array:
    del z
    filler = 0.0 if options.missing == "zero_logit" else FLOOR
    foil_IN = jnp.where(own.is_foil_IN, own.foil_IN, filler)
    foil_IPN = jnp.broadcast_to(foil_IN[:, None], (*own.positive_IP.shape, foil_IN.shape[1]))
    log_p_IPC = jax.nn.log_softmax(jnp.concatenate([own.positive_IP[..., None], foil_IPN], axis=2))
    share_I = options.smoothing / (1 + own.is_foil_IN.sum(1))
    target_IC = jnp.concatenate([1 - options.smoothing + share_I[:, None], share_I[:, None] * own.is_foil_IN], axis=1)
    # Classes without a target are cut out: 0 times a log-probability near the floor would still round.
    log_p_IPC = jnp.where(target_IC[:, None] > 0, log_p_IPC, 0)
    return jnp.sum(target_IC[:, None] * (-jnp.expm1(log_p_IPC)) ** options.gamma * -log_p_IPC, axis=2)


def _sigmoid(options: OwnFoils, z: Embedded, own: _Own) -> jax.Array:
    del options
    foils_I = jnp.sum(jnp.where(own.is_foil_IN, jax.nn.softplus(own.foil_IN + z.bias), 0), axis=1)
    return jax.nn.softplus(-own.positive_IP - z.bias) + foils_I[:, None]


def _hinge(options: OwnFoils, z: Embedded, own: _Own) -> jax.Array:
    del z
    return _hinge_cost(options.margin, own)


def _adaptive_hinge(options: OwnFoils, z: Embedded, own: _Own) -> jax.Array:
    gap_I = masked_mean(own.positive_IP, own.is_positive_IP) - masked_mean(own.foil_IN, own.is_foil_IN)
    gap = jax.lax.stop_gradient(mean_over_images(gap_I, own.counts_I, z))
    return _hinge_cost(jnp.clip(gap, 0, options.margin_limit), own)


def _hinge_cost(margin: jax.Array | float, own: _Own) -> jax.Array:
    excess_IPN = margin + own.foil_IN[:, None] - own.positive_IP[..., None]
    return masked_mean(jax.nn.relu(excess_IPN), own.is_foil_IN[:, None])


_FORMS: dict[str, Callable[[OwnFoils, Embedded, _Own], jax.Array]] = {
    "softmax": _softmax,
    "focal": _focal,
    "sigmoid": _sigmoid,
    "hinge": _hinge,
    "adaptive_hinge": _adaptive_hinge,
}
