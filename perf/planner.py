"""Time of planning a batch, which every process does for the whole global batch: microseconds an image.

    python -m perf.planner --images 256 4096 65536 --rows 1e5 1e7
    python -m perf.planner --source jsonl:my.jsonl --recipe positives

By default, items have the caption bank's captions, four true and four false ones each, as NatuRel's have. ``--source``
measures one of ``config.data.mixture`` instead. After a first batch, medians of ``--repeats`` batches are given: all of
it by the clock, and everything but the tokens of captions that were not seen before, in processor time.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence

import numpy as np

from naturel_jax.data import datasets
from naturel_jax.data.batches.planner import MixturePart, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.items.items import Captions, Group, Items, collect
from naturel_jax.data.items.ragged import Ragged
from naturel_jax.data.text.processor import Processor, from_scratch
from naturel_jax.models.presets import preset
from tfds_naturel.captions import bank
from tfds_naturel.common import cli

_TRAINED_ON = 1000  # captions


def bank_items(rows: int) -> Items:
    """``rows`` images, each with the bank's captions of one triplet."""
    groups = [Group.from_triplet(captions) for captions in bank.load().values()]
    once = collect("bank", ((str(n), [group]) for n, group in enumerate(groups)))
    group_N = np.arange(rows) % len(groups)

    def repeated(captions: Captions) -> Captions:
        of_groups = captions.rows_of(group_N)
        columns = (column[of_groups.values] for column in (captions.text_C, captions.pair_C, captions.simple_C))
        others = captions.paraphrases and captions.paraphrases.take(of_groups.values)
        return Captions(of_groups.starts, *columns, others)

    return Items(
        name="bank",
        image_ids=range(rows),  # type: ignore[arg-type]  # names are not used
        texts=once.texts,
        facts=once.facts,
        groups_N1=np.arange(rows + 1, dtype=np.int32),
        attribute_G=once.attribute_G[group_N],
        positives=repeated(once.positives),
        negatives=repeated(once.negatives),
        shows=once.shows.take(group_N),
        asserts=Ragged(once.asserts.starts, once.asserts.values),
    )


class _Timed(Processor):
    """Adds up the processor time that tokenizing takes in the thread that plans."""

    seconds = 0.0

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        start = time.thread_time()
        tokens = super().tokenize(texts)
        type(self).seconds += time.thread_time() - start
        return tokens


def measure(items: Items, name: str, images: int, repeats: int) -> tuple[float, float]:
    """Median microseconds an image: by the clock, and of processor time without tokenizing."""
    config = preset("clip-b32")
    texts = items.texts_at(np.arange(min(_TRAINED_ON, len(items.texts))))
    processor = _Timed(**from_scratch(config, texts).to_dict())
    planner = Planner([MixturePart(items, recipe(name))], processor, batch_size=images, shards=1, seed=0, trim_eos=1)
    planner.plan(0)
    whole, own = [], []
    for step in range(1, repeats + 1):
        _Timed.seconds, start, cpu = 0.0, time.perf_counter(), time.thread_time()
        planner.plan(step)
        whole.append(time.perf_counter() - start)
        own.append(time.thread_time() - cpu - _Timed.seconds)
    return statistics.median(whole) / images * 1e6, statistics.median(own) / images * 1e6


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[256, 1024, 4096, 16384, 65536])
    parser.add_argument("--rows", type=float, nargs="+", default=[1e5, 1e7])
    parser.add_argument("--source", default="", help="a source by name, instead of generated rows")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--recipe", default="single_pair")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    sources = (bank_items(int(rows)) for rows in options.rows)
    if options.source:
        sources = iter([datasets.open_source(options.source, options.data_dir, "train").items])
    print(f"{'rows':>12}{'images':>9}{'us an image':>13}{'processor, no tokens':>22}")
    for items, group in itertools.groupby(itertools.product(sources, options.images), lambda pair: pair[0]):
        for _, images in group:
            whole, own = measure(items, options.recipe, images, options.repeats)
            print(f"{len(items):12,}{images:9,}{whole:13.2f}{own:22.2f}", flush=True)


if __name__ == "__main__":
    cli.run(main)
