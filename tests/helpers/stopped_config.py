"""``tiny_config`` with a checkpoint between its evaluations; SIGTERM arrives when an evaluation begins: the one whose
number is the argument."""

import os
import signal

from naturel_jax.evaluators.evaluator import Evaluator
from tests.helpers import tiny_config


def get_config(argument: str):
    calls = []

    def interrupting(scores):
        def interrupted(*arguments, **options):
            calls.append(None)
            if len(calls) == int(argument):
                os.kill(os.getpid(), signal.SIGTERM)
            return scores(*arguments, **options)

        interrupted.original = scores
        return interrupted

    for name in ("scores", "scores_with_intervals"):  # during training, and at the end
        scores = getattr(Evaluator, name)
        setattr(Evaluator, name, interrupting(getattr(scores, "original", scores)))  # a config file is run twice
    config = tiny_config.get_config()
    config.checkpoint.every = "15 steps"
    return config
