"""``tiny_config`` with a checkpoint between its evaluations; SIGTERM arrives when an evaluation begins: the one whose
number is the argument."""

import os
import signal

import tiny_config

from naturel_jax.evaluators.evaluator import Evaluator


def get_config(argument: str):
    scores = getattr(Evaluator.scores, "original", Evaluator.scores)  # a config file with overrides is run twice
    calls = []

    def interrupted(*arguments, **options):
        calls.append(None)
        if len(calls) == int(argument):
            os.kill(os.getpid(), signal.SIGTERM)
        return scores(*arguments, **options)

    interrupted.original = scores
    Evaluator.scores = interrupted
    config = tiny_config.get_config()
    config.checkpoint.every = "15 steps"
    return config
