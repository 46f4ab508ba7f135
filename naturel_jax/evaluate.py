"""Evaluates any models on any benchmarks and reports.

    python -m naturel_jax.evaluate --models CLIP=hf:openai/clip-vit-base-patch32 NegCLIP-AP=run:runs/negclip_ap \
        --benchmarks all --benchmarks_dir ~/benchmarks --naturel ~/tfds/naturel/v4/1.0.0 --out results

A model is ``name=source``; a source is a run (``run:DIR``), a model of the hub (``hf:owner/name``,
``open_clip:owner/name``), a folder or a file. A pair of model and benchmark that is finished in ``--out`` is not
computed again.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from naturel_jax import checkpoint, report, weights
from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.evaluators import results
from naturel_jax.evaluators.cache import CachedEncoder
from naturel_jax.evaluators.embed import Encoder, cosines
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model, Params
from naturel_jax.sharding import make_mesh, param_sharding


def evaluate(
    name: str, source: str, benchmarks: Sequence[Benchmark], out: Path, *, batch_size: int, dtype: str
) -> None:
    """Evaluates one model, and saves each benchmark's result as soon as it is there."""
    mesh = make_mesh({"data": -1})
    config, params, processor = weights.load(source, sharding_for=param_sharding(mesh))
    model = Model(config, Compute(dtype=dtype))
    fingerprint = results.model_fingerprint(model, params, processor)
    encoder = Encoder(model, processor, mesh=mesh, batch_size=batch_size, pixel_cache_bytes=0)
    cached = CachedEncoder(encoder, out / "embeddings" / f"{fingerprint}.sqlite")
    trained_on = checkpoint.read_meta(source.removeprefix("run:"))[1]["used"] if source.startswith("run:") else {}
    for whole in benchmarks:
        benchmark = whole.held_out(trained_on.get(whole.name, ()))
        pair = results.pair_fingerprint(fingerprint, benchmark)
        if results.finished(out, name, benchmark.name, pair):
            print(f"{name} on {benchmark.name}: finished before", flush=True)
            continue
        start = time.perf_counter()
        embedded = cosines(benchmark.items, cached, params)
        result = results.save(out, name, benchmark, pair, embedded, _text_norms(benchmark, encoder, params))
        print(f"{name} on {benchmark.name}: {_summary(result)}, {time.perf_counter() - start:.1f} s", flush=True)
        for problem in result.problems[:5]:
            print(f"  {problem}", flush=True)


def _text_norms(benchmark: Benchmark, encoder: Encoder, params: Params) -> dict[str, float]:
    """Caption -> length of its embedding, where blind baselines apply."""
    if not benchmark.true_captions:
        return {}
    texts = list(dict.fromkeys(caption for item in benchmark.items for caption in item.captions))
    return dict(zip(texts, encoder.text_norms(params, texts).tolist(), strict=True)) if texts else {}


def _summary(result: results.Result) -> str:
    of = f" of {result.published:,} published" if result.published else ""
    problems = f", {len(result.problems):,} problems (all in scores.json)" if result.problems else ""
    return f"{result.items:,}{of} items{problems}"


def named(models: Sequence[str]) -> dict[str, str]:
    """Name -> source of ``name=source`` or ``source``. Raises ValueError when two have one name."""
    pairs = [(text.partition("=")[::2] if "=" in text else (text, text)) for text in models]
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names) or not all(name and source for name, source in pairs):
        raise ValueError(f"--models {' '.join(models)}: expected name=source, each name once")
    return dict(pairs)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=SOURCE")
    parser.add_argument(
        "--benchmarks",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help="all, or names of the list of `python -m naturel_jax.benchmarks`",
    )
    parser.add_argument("--benchmarks_dir", type=Path, default=Path("benchmarks_data"), help="the official files")
    parser.add_argument("--naturel", type=Path, help="a prepared TFDS folder, .../naturel/<config>/<version>")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the towers' arithmetic; published scores are float32's",
    )
    options = parser.parse_args(argv)
    try:
        models = named(options.models)
        benchmarks = registry.read(options.benchmarks, options.benchmarks_dir, options.naturel)
        if not benchmarks:
            raise FileNotFoundError(f"no benchmark in {options.benchmarks_dir}; see `python -m naturel_jax.benchmarks`")
        for name, source in models.items():
            evaluate(name, source, benchmarks, options.out, batch_size=options.batch_size, dtype=options.dtype)
            print(report.write(options.out), flush=True)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(2, f"evaluate: {error}\n")


if __name__ == "__main__":
    main()
