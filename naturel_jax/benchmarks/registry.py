"""All benchmarks by name. A new one is one file and one line here."""

from collections.abc import Callable, Sequence
from pathlib import Path

from naturel_jax.benchmarks import (
    eqben,
    hub_pairs,
    naturel,
    order,
    retrieval,
    sugarcrepe,
    sugarcrepe_pp,
    valse,
    visual_genome,
    vsr,
    whatsup,
    winoground,
    zeroshot,
)
from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.benchmarks.files import BenchmarkError

BENCHMARKS: dict[str, Callable[[Path], Benchmark]] = {
    "winoground": winoground.read,
    "vg_relation": visual_genome.read_relation,
    "vg_attribution": visual_genome.read_attribution,
    "sugarcrepe": sugarcrepe.read,
    "coco_order": order.read_coco,
    "flickr30k_order": order.read_flickr30k,
    "whatsup": whatsup.read,
    "sugarcrepe_pp": sugarcrepe_pp.read,
    "bivlc": hub_pairs.read_bivlc,
    "colorswap": hub_pairs.read_colorswap,
    "eqben": eqben.read,
    "valse": valse.read,
    "vsr": vsr.read,
    "coco_retrieval": retrieval.read_coco,
    "flickr30k_retrieval": retrieval.read_flickr30k,
    "zeroshot": zeroshot.read,
}
NATUREL = {"naturel": "test", "naturel_unseen": "test_unseen_triplets"}  # benchmark -> split of the TFDS folder


def load(names: Sequence[str], benchmarks_dir: Path) -> list[Benchmark]:
    """The benchmarks called ``names``, read from ``benchmarks_dir``. Raises ValueError that lists the names, and what
    the readers raise.
    """
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise ValueError(f"benchmarks {unknown} are not known; expected some of: {', '.join(BENCHMARKS)}")
    return [BENCHMARKS[name](benchmarks_dir) for name in names]


def read(names: Sequence[str], benchmarks_dir: Path, naturel_dir: Path | None) -> list[Benchmark]:
    """The benchmarks called ``names``. ``all`` is every one that is there; the others are printed with the reason.

    Raises ValueError for an unknown name, and for a named benchmark that cannot be read FileNotFoundError or
    BenchmarkError.
    """
    asked = [*NATUREL, *BENCHMARKS] if list(names) == ["all"] else list(names)
    found = []
    for name in asked:
        try:
            if name not in NATUREL:
                found += load([name], benchmarks_dir)
            elif naturel_dir is None:
                raise BenchmarkError(f"{name}: pass its prepared TFDS folder with --naturel")
            else:
                found.append(naturel.read(naturel_dir, NATUREL[name], name))
        except (FileNotFoundError, BenchmarkError) as error:
            if list(names) != ["all"]:
                raise
            print(f"left out {name}: {error}", flush=True)
    return found
