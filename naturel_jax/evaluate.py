"""Evaluates models on benchmarks and writes a report, or evaluates a run's checkpoints as they appear.

    python -m naturel_jax.evaluate --models CLIP=hf:openai/clip-vit-base-patch32 NegCLIP-AP=run:runs/negclip_ap \
        --benchmarks all --benchmarks_dir ~/benchmarks --naturel data/naturel/full/3.0.0 --out results

A model is ``name=source``; a source is a run (``run:DIR``), a model on the hub (``hf:owner/name``,
``open_clip:owner/name``), a folder or a file. A (model, benchmark) pair that is already finished in ``--out`` is
skipped.

    python -m naturel_jax.evaluate --watch runs/negclip_ap --benchmarks winoground --benchmarks_dir ~/benchmarks

runs alongside the training run (on another machine, if the folder is shared), writes the scores of every checkpoint to
``--out`` (here runs/negclip_ap/evaluations by default), and exits when the run has ended.
"""

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from types import ModuleType

from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.cli import compilation_cache
from naturel_jax.config import own_benchmarks
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.devices import preemption
from naturel_jax.evaluators import blind, embedding_model, mistakes, results
from naturel_jax.evaluators.cache import CachedEncoder
from naturel_jax.evaluators.embed import Encoder, cosines, load_encoder, make_encoder
from naturel_jax.evaluators.held_out import found, hold_out
from naturel_jax.evaluators.mirror import Mirror
from naturel_jax.evaluators.watch import watch
from naturel_jax.models.two_tower import Params
from naturel_jax.report import mistakes as mistakes_page
from naturel_jax.report import published, report
from naturel_jax.storage import staging
from naturel_jax.training import writers
from naturel_jax.weights import runs
from naturel_jax.weights.sources import Loaded
from tfds_naturel.common import cli, escape
from tfds_naturel.common.errors import UserError

_EMBEDDINGS = "embeddings"  # folder of their cache, which is uploaded to an object store once for each model


def evaluate(
    name: str,
    source: str,
    benchmarks: Sequence[Benchmark],
    mirror: Mirror,
    *,
    batch_size: int,
    dtype: str,
    wrong: Sequence[str] = (),
) -> str:
    """Evaluates one model, and saves each benchmark's result as soon as it is ready.

    Then also with each of the mistakes ``wrong``, and returns what is to be said about these.
    """
    out = mirror.local
    with preemption.interruptible():
        encoder, params = load_encoder(source, dtype=dtype, batch_size=batch_size)
    fingerprint = results.model_fingerprint(encoder.model, params, encoder.processor)
    trained_on = runs.trained_on(source.removeprefix("run:")) if source.startswith("run:") else TrainedOn()
    cached = CachedEncoder(encoder, params, out / _EMBEDDINGS / fingerprint)
    scored: list[tuple[Benchmark, results.Result]] = []
    for whole in benchmarks:
        benchmark = hold_out(whole, trained_on)
        pair = results.pair_fingerprint(fingerprint, benchmark)
        if done := results.finished(out, name, benchmark.name, pair):
            print(f"{name} on {benchmark.name}: already done", flush=True)
            scored.append((benchmark, done))
            continue
        start = time.perf_counter()
        embedded = cosines(benchmark.whole.items, cached)
        norms, known = _text_norms(benchmark, encoder, params), found(whole, trained_on)
        result = results.save(out, name, benchmark, pair, embedded, norms, known)
        scored.append((benchmark, result))
        mirror.publish(without=_EMBEDDINGS)
        print(f"{name} on {benchmark.name}: {_summary(result)}, {time.perf_counter() - start:.1f} s", flush=True)
        for problem in result.problems[:5]:
            print(f"  {escape.line(problem)}", flush=True)
    if not wrong:
        return ""
    loaded = Loaded(encoder.model.config, params, encoder.processor)
    make = functools.partial(make_encoder, dtype=dtype, batch_size=batch_size)
    return _with_mistakes(wrong, name, mistakes.Right(source, loaded, cached, make), fingerprint, scored, mirror)


def _with_mistakes(
    wrong: Sequence[str],
    name: str,
    right: mistakes.Right,
    fingerprint: str,
    scored: Sequence[tuple[Benchmark, results.Result]],
    mirror: Mirror,
) -> str:
    """Evaluates a model with each of the mistakes ``wrong``; returns its section of the page on them."""
    made: dict[str, Sequence[results.Result] | None] = {}
    for mistake in wrong:
        start = time.perf_counter()
        kept = [benchmark for benchmark, _ in scored]
        made[mistake] = mistakes.evaluate(mistake, name, right, fingerprint, kept, mirror.local)
        mirror.publish(without=_EMBEDDINGS)
        done = f"{time.perf_counter() - start:.1f} s" if made[mistake] else "cannot be made"
        print(f"{name}, mistake {mistake}: {done}", flush=True)
    official = [
        benchmark.name
        for benchmark, result in scored
        if not result.incomplete and published.is_official(benchmark.name, list(map(vars, benchmark.items)))
    ]
    meanings = {mistake: mistakes.MISTAKES[mistake].what for mistake in wrong}
    return mistakes_page.section(name, [result for _, result in scored], made, official, meanings)


def _text_norms(benchmark: Benchmark, encoder: Encoder, params: Params) -> dict[str, float]:
    """Caption -> length of its embedding, where blind baselines apply."""
    if not benchmark.true_captions:
        return {}
    texts = list(dict.fromkeys(text for item in benchmark.items for text in blind.texts(item)))
    return dict(zip(texts, encoder.text_norms(params, texts).tolist(), strict=True)) if texts else {}


def _summary(result: results.Result) -> str:
    published = f" of {result.published:,} published" if result.published else ""
    problems = f", {len(result.problems):,} problems (all in scores.json)" if result.problems else ""
    left_out = f", {result.left_out:,} left out whose images it was trained on" if result.left_out else ""
    return f"{result.items:,}{published} items{left_out}{problems}"


def parse_models(models: Sequence[str]) -> dict[str, str]:
    """Name -> source of ``name=source`` or ``source``. Raises UserError if two share a name."""
    parts = (text.partition("=") for text in models)
    pairs = [(name, source if equals else name) for name, equals, source in parts]
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
    known = "all, names listed by `python -m naturel_jax.benchmarks`, or your own: pairs:my.jsonl, birds=classes:folder"
    parser.add_argument("--benchmarks", nargs="+", default=["all"], metavar="NAME", help=known)
    own_benchmarks.add_fields(parser)
    parser.add_argument("--benchmarks_dir", default="benchmarks_data", help="folder with the official files")
    parser.add_argument("--naturel", help="a prepared TFDS folder, such as data/naturel/full/3.0.0")
    parser.add_argument("--out", type=epath.Path, help="default: results, or WORKDIR/evaluations with --watch")
    parser.add_argument("--batch_size", type=int, default=256)
    precision = "dtype of the towers' arithmetic; published scores use float32"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help=precision)
    on_purpose = f"evaluate also with these mistakes, and compare: all, or any of {', '.join(mistakes.MISTAKES)}"
    parser.add_argument("--mistakes", nargs="+", default=[], metavar="NAME", help=on_purpose)
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        raise UserError(f"--batch_size is {options.batch_size}, expected 1 or more")
    wrong = mistakes.parse(options.mistakes)
    if wrong and options.watch:
        raise UserError("--mistakes is for models, not for --watch; name the run with --models NAME=run:WORKDIR")
    models = parse_models(options.models or ())
    files, naturel = staging.stage(options.benchmarks_dir), staging.stage(options.naturel) if options.naturel else None
    fields = own_benchmarks.parse_fields(options.fields)
    benchmarks = registry.read(options.benchmarks, files=files, naturel=naturel, fields=fields)
    if not benchmarks:
        raise UserError(f"no benchmarks found in {options.benchmarks_dir}; see `python -m naturel_jax.benchmarks`")
    sizes = {"batch_size": options.batch_size, "dtype": options.dtype}
    preemption.install_handler()
    compilation_cache.enable()
    if options.watch:
        return watch(options.watch, benchmarks, options.out or options.watch / "evaluations", **sizes)
    mirror = Mirror(options.out or epath.Path("results"))
    histories = {
        name: writers.history(epath.Path(source.removeprefix("run:")))
        for name, source in models.items()
        if source.startswith("run:")
    }
    sections: dict[str, str] = {}
    for name, source in models.items():
        sections[name] = evaluate(name, source, benchmarks, mirror, **sizes, wrong=wrong)
        mirror.publish()
        mirror.fetch()
        print(report.write(mirror.local, histories), flush=True)
        if wrong:
            text = mistakes_page.page(sections)
            storage.write(epath.Path(mirror.local / mistakes.FOLDER / "report.md"), text)
            print(text, flush=True)
        mirror.publish()


class _Callable(ModuleType):
    """``naturel_jax.evaluate`` is also the API's function, which importing this module would hide."""

    __call__ = staticmethod(embedding_model.evaluate)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    cli.run(main)
