"""Which benchmark images models may have been trained on: what the collections say, and what was found."""

from collections.abc import Sequence

from naturel_jax.benchmarks.registry import BENCHMARKS
from naturel_jax.evaluators.results import LeftOut, Result
from naturel_jax.report.contents import Section

NOTE = (
    "Where the published images of each benchmark come from, which other data may hold them, and how many items were "
    "found among the training images of each model. Models that are neither runs of naturel_jax nor exports of one "
    "have no record of these."
)
_HEAD = ("Benchmark", "Images", "Also in training data from", "Found")


def sections(results: Sequence[Result | LeftOut]) -> list[Section]:
    """A table with a line for each benchmark; those of which all images were compared and none was found are one
    sentence instead. A benchmark has no origin if it is the user's, or its package is not installed."""
    by_benchmark: dict[str, list[Result | LeftOut]] = {}
    for result in results:
        by_benchmark.setdefault(result.benchmark, []).append(result)
    clear, rows = [], []
    for name, found in by_benchmark.items():
        if all(one.found and one.found["read"] == one.found["images"] and not one.left_out for one in found):
            clear.append(name)
            continue
        origins = BENCHMARKS[name].SOURCE.origins if name in BENCHMARKS else ()
        images = tuple((origin.images, origin.source) for origin in origins)
        overlaps = dict.fromkeys(overlap for origin in origins for overlap in origin.overlaps)
        others = tuple((f"{overlap.training}: {overlap.known}", overlap.source) for overlap in overlaps)
        rows.append((name, images or "not stated", others, tuple((f"{one.model}: {_found(one)}", "") for one in found)))
    sentence = f"No image of {', '.join(clear)} was found among those that the models were trained on; all were read."
    text = [sentence] * bool(clear) + [NOTE] * bool(rows)
    return [Section("Images that may have been trained on", _HEAD, rows, text, words=True)] if text else []


def _found(result: Result | LeftOut) -> str:
    if not result.found:
        return "no record" if result.found is not None else "not counted; evaluate again"
    number = result.items + result.left_out
    ways = ", ".join(f"{result.found[way]:,} by {way}" for way in ("name", "bytes", "look"))
    read = f"{result.found['read']:,} of {result.found['images']:,} training images read"
    return f"{result.left_out:,} of {number:,} items ({ways}; {read})"
