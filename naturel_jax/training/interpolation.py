"""The curve between the parameters that a run started from and its last ones (WiSE-FT, arXiv 2109.01903)."""

import logging
from collections.abc import Mapping

import jax
from etils import epath

from naturel_jax import storage, weights
from naturel_jax.benchmarks.benchmark import headlines, sign
from naturel_jax.checkpoints import recorded
from naturel_jax.config import Config
from naturel_jax.devices.sharding import param_sharding
from naturel_jax.evaluators.evaluator import Evaluator
from naturel_jax.models.two_tower import Params

_LOG = logging.getLogger(__name__)


def curve(
    config: Config, folder: epath.Path, params: Params, scores: Mapping[str, float], evaluator: Evaluator
) -> None:
    """Writes the headline scores, and that of ``interpolate_by``, at each share of ``config.eval.interpolate`` to
    ``recorded.INTERPOLATED`` in the run's folder, and the best share by ``config.eval.interpolate_by``, of equals that
    nearest to the base. ``scores``: those of ``params``, the share 1. Raises what ``weights.started_from``
    raises."""
    base = weights.started_from(folder, sharding_for=param_sharding(params["logit_scale"].sharding.mesh))
    mixed, found, by = jax.jit(weights.interpolate), {}, config.eval.interpolate_by
    for share in config.eval.interpolate:
        at = scores if share == 1 else evaluator.scores(mixed(base, params, share))
        found[share] = {name: at[name] for name in headlines(at)} | ({by: at[by]} if by in at else {})
    best = None
    if by in scores:
        best = max(found, key=lambda share: (sign(by) * found[share][by], -share))
        points = ", ".join(f"{share:g}: {at[by]:.3f}" for share, at in found.items())
        _LOG.info("%s interpolated with its base: %s is %s; the best is %g", config.name, by, points, best)
    elif by:
        _LOG.warning("config.eval.interpolate_by is %r; found: %s", by, ", ".join(found[config.eval.interpolate[0]]))
    if jax.process_index() == 0:
        record = {"by": by, "best": best, "scores": {f"{share:g}": at for share, at in found.items()}}
        storage.write_json(folder / recorded.INTERPOLATED, record)
