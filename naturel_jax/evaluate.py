"""Evaluates models on benchmarks and writes a report, or evaluates a run's checkpoints as they appear.

    naturel-evaluate --models CLIP=hf:openai/clip-vit-base-patch32 NegCLIP-AP=run:runs/negclip_ap \
        --benchmarks all --benchmarks_dir ~/benchmarks --naturel data/naturel/full/4.1.0 --out results

A model is ``name=source``; a source is a run (its newest checkpoint as ``run:DIR``, others as ``run:DIR@STEP`` and
``run:DIR@best:SCORE``), a model on the hub (``hf:owner/name``, ``open_clip:owner/name``), a folder or a file. A (model,
benchmark) pair that is already finished in ``--out`` is skipped.

    naturel-evaluate --watch runs/negclip_ap --benchmarks winoground --benchmarks_dir ~/benchmarks

runs alongside the training run (on another machine, if the folder is shared), writes the scores of every checkpoint to
``--out`` (here runs/negclip_ap/evaluations by default), and exits when the run has ended.
"""

import argparse
import functools
import re
import sys
from collections.abc import Sequence
from types import ModuleType

from etils import epath

from naturel_jax.benchmarks import registry
from naturel_jax.cli import compilation_cache, evaluation
from naturel_jax.config import own_benchmarks
from naturel_jax.devices import preemption, processes
from naturel_jax.evaluators import embedding_model, mistakes
from naturel_jax.evaluators.watch import watch
from naturel_jax.report import known_scores, published
from naturel_jax.storage import staging
from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError


def parse_models(models: Sequence[str]) -> dict[str, str]:
    """Name -> source of ``name=source`` or ``source``, which may have ``=`` after a colon or slash, as runs of sweeps
    do. Raises UserError if two share a name."""
    named = (re.fullmatch(r"([^:/=]*)=(.*)", text, re.DOTALL) for text in models)
    pairs = [(match[1], match[2]) if match else (text, text) for text, match in zip(models, named, strict=True)]
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names) or not all(name and source for name, source in pairs):
        raise UserError(f"--models {' '.join(models)}: expected name=source, each name once")
    return dict(pairs)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--models", nargs="+", metavar="NAME=SOURCE")
    subject.add_argument("--watch", type=epath.Path, metavar="WORKDIR", help="evaluate this run's checkpoints")
    known = "all, names listed by naturel-benchmarks, or your own: pairs:my.jsonl, birds=classes:folder"
    parser.add_argument("--benchmarks", nargs="+", default=["all"], metavar="NAME", help=known)
    own_benchmarks.add_fields(parser)
    parser.add_argument("--benchmarks_dir", default="benchmarks_data", help="folder with the official files")
    parser.add_argument("--naturel", help="a prepared TFDS folder, such as data/naturel/full/4.1.0")
    parser.add_argument("--out", type=epath.Path, help="default: results, or WORKDIR/evaluations with --watch")
    parser.add_argument("--batch_size", type=int, default=256)
    precision = "dtype of the towers' arithmetic; published scores use float32"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help=precision)
    meaning = f"also evaluate with these mistakes, and compare: all, or any of {', '.join(mistakes.MISTAKES)}"
    parser.add_argument("--mistakes", nargs="+", default=[], metavar="NAME", help=meaning)
    meaning = "also score the items that differ in word order only, and those that no blind model solves"
    parser.add_argument("--shortcuts", action="store_true", help=meaning)
    meaning = "known scores of further checkpoints, as in docs/reproduce.md (JSON)"
    parser.add_argument("--known", type=cli.on_disk, metavar="FILE", help=meaning)
    meaning = "compare each model with this one (default: runs with the model they started from, if it is there)"
    parser.add_argument("--baseline", default="", metavar="NAME", help=meaning)
    meaning = "write a page with every benchmark's items and images, which the scores in report.html link to"
    parser.add_argument("--galleries", action="store_true", help=meaning)
    options = parser.parse_args(arguments)
    cli.check_counts(options, "batch_size")
    wrong = mistakes.parse(options.mistakes)
    given = [name for name in ("mistakes", "shortcuts", "baseline", "galleries", "known") if getattr(options, name)]
    if options.watch and given:
        raise UserError(f"--{given[0]} is for models, not for --watch; name the run with --models NAME=run:WORKDIR")
    models = parse_models(options.models or ())
    checkpoints = [*published.read(options.known).values(), *published.CHECKPOINTS.values()]
    fields = own_benchmarks.parse_fields(options.fields)
    preemption.install_handler()
    with preemption.interruptible():
        files = staging.stage(options.benchmarks_dir)
        naturel = staging.stage(options.naturel) if options.naturel else None
        benchmarks = registry.read(options.benchmarks, files=files, naturel=naturel, fields=fields)
    if not benchmarks:
        raise UserError(f"no benchmarks found in {options.benchmarks_dir}; see `naturel-benchmarks`")
    sizes = {"batch_size": options.batch_size, "dtype": options.dtype}
    processes.check_limits()
    compilation_cache.enable()
    if options.watch:
        return watch(options.watch, benchmarks, options.out or options.watch / "evaluations", **sizes)
    out = options.out or epath.Path("results")
    one = functools.partial(evaluation.evaluate, wrong=wrong, shortcuts=options.shortcuts, **sizes)
    check = functools.partial(
        known_scores.report, known=checkpoints, benchmarks=benchmarks, files=str(options.benchmarks_dir)
    )
    evaluation.evaluate_all(models, benchmarks, out, one, check, baseline=options.baseline, galleries=options.galleries)


class _Callable(ModuleType):
    """Makes this module callable, since importing it hides the API function ``naturel_jax.evaluate``."""

    __call__ = staticmethod(embedding_model.evaluate)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    cli.run(main)
