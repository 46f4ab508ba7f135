"""Evaluates models one after another, saving each result as soon as it is ready and repeating none."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from etils import epath

from naturel_jax import storage, weights
from naturel_jax.benchmarks import blind
from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.devices import machine, preemption
from naturel_jax.evaluators import examples, fingerprints, mistakes, results, scoring
from naturel_jax.evaluators.cache import CachedEncoder
from naturel_jax.evaluators.embed import Encoder, cosines, load_encoder, make_encoder
from naturel_jax.evaluators.held_out import count_overlaps, hold_out
from naturel_jax.evaluators.mirror import Mirror
from naturel_jax.models.two_tower import Params
from naturel_jax.report import files, gallery, published, report
from naturel_jax.report import mistakes as mistakes_page
from naturel_jax.weights import runs
from naturel_jax.weights.sources import Loaded
from tfds_naturel.common import escape
from tfds_naturel.common.errors import UserError

_EMBEDDINGS = "embeddings"  # cache folder, uploaded to an object store once per model


def evaluate_all(
    models: Mapping[str, str],
    benchmarks: Sequence[Benchmark],
    out: epath.Path,
    one: Callable[[str, str, Sequence[Benchmark], Mirror], str],
    check: Callable[[Path, str, str], str],
    *,
    baseline: str,
    galleries: bool,
) -> None:
    """Evaluates ``models`` (name -> source) and reports to ``out`` after each; with ``galleries``, also writes pages of
    all items. ``one``: ``evaluate`` with its options; ``check``: (folder of results, name, source) -> what is printed
    on the known scores of a model; ``baseline``: see ``bases``. Raises UserError if ``out`` has files of somebody
    else's that the report would replace."""
    files.check(out, [_EMBEDDINGS, *map(results.file_name, models)], "results of these models", "--out")
    mirror = Mirror(out)
    named = {name: source.removeprefix("run:") for name, source in models.items() if source.startswith("run:")}
    workdirs = {name: [runs.locate(workdir)[0]] for name, workdir in named.items()}
    compared = bases(models, baseline, mirror.local)
    write = functools.partial(report.write, mirror.local, workdirs, machine.accelerators(), compared)
    sections: dict[str, str] = {}
    for name, source in models.items():
        sections[name] = one(name, source, benchmarks, mirror)
        mirror.publish()
        mirror.fetch()
        print(write(), flush=True)
        print(check(mirror.local, name, source), end="")
        if sections[name]:
            text = mistakes_page.page(sections)
            storage.write(epath.Path(mirror.local / mistakes.FOLDER / "report.md"), text)
            print(text, flush=True)
        mirror.publish()
    if galleries:
        write(galleries=gallery.write_all(mirror.local, benchmarks))
        mirror.publish()
    print(f"report: {out / 'report.html'}")


def bases(models: Mapping[str, str], baseline: str, out: Path) -> dict[str, str]:
    """Model -> the model that it is compared with: ``baseline``, or for a run the one it started from, if it is one of
    ``models`` (name -> source). Raises UserError for a baseline that is neither one of them nor has results in
    ``out``."""
    if baseline:
        known = [*models, *(result.model for result in results.load(out))]
        if baseline not in known:
            expected = ", ".join(dict.fromkeys(known))
            raise UserError(f"--baseline {baseline!r} is not a model of this evaluation; expected one of: {expected}")
        return {name: baseline for name in known if name != baseline}
    names = {_place(source): name for name, source in models.items()}
    started = {n: _place(runs.base(source[4:])) for n, source in models.items() if source.startswith("run:")}
    return {name: names[base] for name, base in started.items() if base in names}


def _place(source: str) -> str:
    """A source, with the folder of a run as an absolute path."""
    return str(storage.absolute(epath.Path(source[4:]))) if source.startswith("run:") else source


def evaluate(
    name: str,
    source: str,
    benchmarks: Sequence[Benchmark],
    mirror: Mirror,
    *,
    batch_size: int,
    dtype: str,
    wrong: Sequence[str] = (),
    shortcuts: bool = False,
) -> str:
    """Evaluates one model, and saves each benchmark's result as soon as it is ready; with ``shortcuts``, also its
    scores on the items that are order only, and on those not solved blind.

    Then repeats the evaluation with each of the mistakes ``wrong``, and returns the report's section on them.
    """
    out = mirror.local
    with preemption.interruptible():
        encoder, params = load_encoder(source, dtype=dtype, batch_size=batch_size)
        fingerprint = fingerprints.of_model(encoder.model, params, encoder.processor)
        trained_on = weights.trained_on(source)
    cached = CachedEncoder(encoder, params, out / _EMBEDDINGS / fingerprint)
    scored: list[tuple[Benchmark, results.Result]] = []
    shown = examples.per_benchmark(len(benchmarks))
    for whole in benchmarks:
        benchmark = hold_out(whole, trained_on)
        pair = fingerprints.of_pair(fingerprint, benchmark)
        done = results.finished(out, name, benchmark.name, pair)
        if done and (done.shortcuts is not None or not shortcuts):
            print(f"{name} on {benchmark.name}: already done", flush=True)
            scored.append((benchmark, done))
            continue
        start = time.perf_counter()
        embedded = preemption.abandonable(functools.partial(cosines, benchmark.whole.items, cached))
        norms, known = _text_norms(benchmark, encoder, params), count_overlaps(whole, trained_on)
        ztxt = dict(zip(norms, cached.captions(list(norms)), strict=True)) if shortcuts else None
        result = scoring.save(out, name, benchmark, pair, embedded, norms, known, shown, ztxt)
        scored.append((benchmark, result))
        mirror.publish(without=_EMBEDDINGS)
        print(
            f"{name} on {benchmark.name}: {escape.line(_summary(result))}, {time.perf_counter() - start:.1f} s",
            flush=True,
        )
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
    return mistakes_page.section(name, right.source, [result for _, result in scored], made, official, meanings)


def _text_norms(benchmark: Benchmark, encoder: Encoder, params: Params) -> dict[str, float]:
    """Caption -> norm of its embedding, for benchmarks with blind baselines."""
    if not benchmark.true_captions:
        return {}
    texts = blind.distinct(benchmark.items)
    return dict(zip(texts, encoder.text_norms(params, texts).tolist(), strict=True)) if texts else {}


def _summary(result: results.Result) -> str:
    published = f" of {result.published:,} published" if result.published else ""
    problems = f", {len(result.problems):,} problems (all in scores.json)" if result.problems else ""
    left_out = f", {result.left_out:,} left out because it was trained on their images" if result.left_out else ""
    ties = f", {result.ties:,} ties" if result.ties else ""
    return f"{result.items:,}{published} items{left_out}{ties}{problems}"
