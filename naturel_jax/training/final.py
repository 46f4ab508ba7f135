"""The evaluation after the last step of a run."""

from etils import epath

from naturel_jax.config import Config
from naturel_jax.devices import preemption
from naturel_jax.evaluators.confidence import Intervals
from naturel_jax.evaluators.evaluator import Evaluator
from naturel_jax.models.two_tower import Params
from naturel_jax.training import interpolation, run_folder
from naturel_jax.training.metrics import Metrics


def evaluate(
    config: Config, folder: epath.Path, params: Params, steps: int, evaluator: Evaluator, metrics: Metrics
) -> tuple[dict[str, float], Intervals]:
    """The scores of ``params`` after all ``steps``, and their confidence intervals, which are also logged, and the
    curve towards the base if the config asks for it."""
    out = run_folder.results_of(folder, config)
    scores, intervals = preemption.abandonable(lambda: evaluator.scores_with_intervals(params, *out))
    metrics.evaluation(steps, scores)
    metrics.final(steps, scores, intervals, lambda: run_folder.mistakes(*out[:2]))
    if config.eval.interpolate:
        preemption.abandonable(lambda: interpolation.curve(config, folder, params, scores, evaluator))
    return scores, intervals
