"""Time until the page of a benchmark's items shows the first of them in Chromium, and until a search has found some.

    python -m perf.gallery --items 1000 25000

Items are pairs, as VG-Relation's, five of an image; two models. The page is a file; of many images, each is one beside
it. A time is the least of five.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.report import gallery
from naturel_jax.report.pairs import Judged
from tests.helpers import benchmark_files as files
from tests.helpers.browser import browser
from tfds_naturel.common import cli

PER_IMAGE, ROUNDS = 5, 5
_PAINTED = """await new Promise(done => new PerformanceObserver(entries => done(entries.getEntries().at(-1).startTime))
  .observe({type: "largest-contentful-paint", buffered: true}))"""
_SEARCH = """((search, start) => {
  search.value = "number 17"; search.dispatchEvent(new Event("input"));
  return document.body.offsetHeight && performance.now() - start;
})(document.getElementById("search"), performance.now())"""


def write(page: Path, number: int) -> None:
    """Writes the page of ``number`` items."""
    items = [
        Judged(
            str(n),
            (f"{n // PER_IMAGE}",),
            ((10, 10, 120, 90),),
            (f"the horse is to the left of the man number {n}", f"the man is to the left of the horse number {n}"),
            ((n % 2 == 0, n % 3 == 0),),
            ((0.31, 0.3), (0.29, 0.3)),
            f"relation {n % 50}",
            str(n),
        )
        for n in range(number)
    ]
    photo = files.png(0, (200, 150))
    images = {item.images[0]: Image(item.images[0], lambda: photo) for item in items}
    gallery.write(page, ("CLIP", "NegCLIP"), "vg_relation", items, images)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[1_000, 25_000])
    args = parser.parse_args(arguments)
    print("| items | page, MB | shown, s | search, s | elements |\n|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder, browser() as page:
        page.resize(1440, 900)
        for number in args.items:
            path = Path(folder) / f"{number}.html"
            write(path, number)
            rounds = []
            for _ in range(ROUNDS):
                page.open(path.as_uri())
                elements = page.run("document.querySelectorAll('*').length")
                rounds.append((page.run(_PAINTED), page.run(_SEARCH)))
            shown, search = (min(times) / 1000 for times in zip(*rounds, strict=True))
            size = path.stat().st_size / 1e6
            print(f"| {number:,} | {size:.1f} | {shown:.2f} | {search:.2f} | {elements:,} |", flush=True)


if __name__ == "__main__":
    cli.run(main)
