"""The builder at the size of Open Images V4: 374,768 annotation rows, 14.6 million boxes, 100,000 photos.

    python -m perf.builder --folder DIR [--images 100000]

makes (once) annotation files with the real numbers of rows for every relation and of boxes (fewer boxes for fewer
images), and photos of 256 x 192 pixels, builds ``naturel/full`` from them in a separate process, reads everything back,
and prints counts, wall time and peak memory.
"""

import argparse
import collections
import concurrent.futures
import csv
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import tensorflow_datasets as tfds

from tfds_naturel.captions import bank
from tfds_naturel.common import cli
from tfds_naturel.common.schema import EXCHANGED_KINDS, Triplet
from tfds_naturel.naturel import Naturel
from tfds_naturel.open_images import boxes
from tfds_naturel.open_images.annotations import COLUMNS
from tfds_naturel.open_images.releases import RELEASES

# Rows by relation in challenge-2018-train-vrd.csv. Here the counts of a relation's triplets fall like 1 / rank.
ROWS = {
    "is": 194_142,
    "at": 111_493,
    "on": 31_604,
    "holds": 20_986,
    "plays": 8_932,
    "interacts_with": 3_756,
    "inside_of": 2_392,
    "wears": 836,
    "hits": 593,
    "under": 34,
}
IMAGES = 100_000
BOXES = 14_610_229


def make(folder: Path, images: int) -> None:
    """Writes ``annotations/`` and ``images/train/`` in the official formats; the same bytes every time."""
    rng = np.random.default_rng(0)
    annotations, photos = folder / "annotations", folder / "images" / "train"
    annotations.mkdir(parents=True)
    photos.mkdir(parents=True)
    triplets = sorted(bank.load())
    ids = [f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}" for n in range(images)]  # distinct: an odd factor
    release = RELEASES["v4"]
    mids = _describe(annotations, triplets)
    rows = [line for relation, count in ROWS.items() for line in _rows(relation, count, triplets, ids, mids, rng)]
    text = "\n".join([",".join(COLUMNS), *(rows[i] for i in rng.permutation(len(rows)))])
    (annotations / release.rows.name).write_text(text + "\n")
    with (annotations / release.boxes.name).open("w") as f:
        f.write(",".join(boxes.COLUMNS) + "\n")
        f.writelines(_boxes(rows, BOXES * images // IMAGES))
    with (annotations / release.images.name).open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["ImageID", "Subset", "OriginalLandingURL", "License", "Author", "Rotation"])
        license_ = "https://creativecommons.org/licenses/by/2.0/"
        writer.writerows([i, "train", f"https://example.org/{i}", license_, f"Author {i}", "0.0"] for i in ids)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda n: (photos / f"{ids[n]}.jpg").write_bytes(_photo(n)), range(images)))


def _describe(annotations: Path, triplets: list[Triplet]) -> dict[str, str]:
    """Writes the three description files; returns invented machine ids by display name."""
    release = RELEASES["v4"]
    attributes = {t.object for t in triplets if t.relation == "is"}
    classes = {name for t in triplets for name in (t.subject, t.object)} - attributes
    mids = {name: f"/m/{n:05x}" for n, name in enumerate(sorted(classes | attributes))}
    for file, names in ((release.classes, classes), (release.attributes, attributes)):
        (annotations / file.name).write_text("".join(f"{mids[name]},{name}\n" for name in sorted(names)))
    (annotations / release.relations.name).write_text("".join(f"{label},{label}\n" for label in ROWS))
    return mids


def _rows(
    relation: str, count: int, triplets: list[Triplet], ids: list[str], mids: dict[str, str], rng: np.random.Generator
) -> list[str]:
    chosen = [t for t in triplets if t.relation == relation]
    weights = 1 / np.arange(1, len(chosen) + 1)
    which = np.concatenate(
        [np.arange(len(chosen)), rng.choice(len(chosen), count - len(chosen), p=weights / weights.sum())]
    )
    images = _images(relation, count, len(ids), rng)
    corners = np.sort(np.round(rng.random((count, 4, 2)) * 0.9 + np.array([0, 0.1]), 6), axis=2).reshape(count, 8)
    if relation == "is":
        corners[:, 4:] = corners[:, :4]
    lines = []
    for t, n, box in zip(which.tolist(), images.tolist(), corners.tolist(), strict=True):
        triplet = chosen[t]
        fields = [ids[n], mids[triplet.subject], mids[triplet.object], *(f"{x:.6g}" for x in box), relation]
        lines.append(",".join(fields))
    return lines


def _boxes(rows: list[str], count: int) -> Iterator[str]:
    """``count`` lines of a box file: those of the things in ``rows``, then of images without relations."""
    things = set()
    for image, one, two, *numbers, relation in (line.split(",") for line in rows):
        things |= {(image, one, *numbers[:4]), (image, one if relation == "is" else two, *numbers[4:])}
    for image, mid, *numbers in sorted(things):
        yield f"{image},xclick,{mid},1,{','.join(numbers)},0,0,0,0,0\n"
    for n in range(count - len(things)):
        yield f"{n // 8:016x},xclick,{mid},1,{','.join(numbers)},0,0,0,0,0\n"


def _images(relation: str, count: int, images: int, rng: np.random.Generator) -> np.ndarray:
    """The image of every row: relations gather in 57% of the images, as in the real file, and each image has a row."""
    related = int(0.57187 * images)
    uncovered = {"is": np.arange(related, images), "at": np.arange(related)}.get(relation, np.arange(0))
    others = rng.integers(0, images if relation == "is" else related, count - len(uncovered))
    return np.concatenate([rng.permutation(uncovered), others])


def _photo(n: int) -> bytes:
    coarse = np.random.default_rng(n).integers(0, 256, (12, 16, 3), np.uint8)
    pixels = cv2.resize(coarse, (256, 192), interpolation=cv2.INTER_CUBIC)
    return simplejpeg.encode_jpeg(pixels, quality=80)


def measure(folder: Path) -> None:
    """Builds, reads back, and prints the report."""
    started = time.monotonic()
    command = ["full", "--unofficial", "--name", "proof", "--manual_dir", folder, "--data_dir", folder / "data"]
    log = (folder / "build.log").open("w")
    subprocess.run([sys.executable, "-m", "tfds_naturel.build", *map(str, command)], check=True, stdout=log, stderr=log)
    wall, peak = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    builder = tfds.builder_from_directory(folder / "data" / "naturel" / "proof" / str(Naturel.VERSION))
    facts = builder.info.metadata
    kinds = [builder.info.features["captions"]["kind"].str2int(kind) for kind in EXCHANGED_KINDS]
    started = time.monotonic()
    read: collections.Counter[str] = collections.Counter()
    ids = set()
    for split, info in builder.info.splits.items():
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        for n in range(len(source)):
            example = source[n]
            captions, exchanged = example["captions"], np.isin(example["captions"]["kind"], kinds)
            ids.add(example["image_id"])
            read["captions of triplets"] += int(np.sum(~exchanged))
            group = np.array(captions["group"])
            read["triplets"] += len(np.unique(group[~exchanged]))
            read["bindings and positions"] += len(np.unique(group[exchanged]))
            read["relations"] += len(example["relations"]["subject"])
        assert info.num_examples == facts["splits"][split]["images"] == len(source), split
    assert read["triplets"] == sum(sum(split["triplets"].values()) for split in facts["splits"].values())
    exchanges = (counts.values() for of_split in facts["exchanges"].values() for counts in of_split.values())
    assert read["bindings and positions"] == sum(map(sum, exchanges))
    assert len(ids) == sum(split["images"] for split in facts["splits"].values())
    report = {
        "rows": facts["rows"],
        "images": facts["images"],
        "splits": {split: counts["images"] for split, counts in facts["splits"].items()},
        "held-out triplets": len(facts["held_out"]),
        "distinct triplets": len({t for split in facts["splits"].values() for t in split["triplets"]}),
        "read back": {"images": len(ids)} | read,
        "dataset, MB": round(builder.info.dataset_size / 1e6),
        "build, s": round(wall, 1),
        "build, peak MiB": round(peak),
        "reading back, s": round(time.monotonic() - started, 1),
    }
    print(json.dumps(report, indent=2))


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="needs about 4 GB; kept for later runs")
    parser.add_argument("--images", type=int, default=IMAGES)
    options = parser.parse_args(arguments)
    if not (options.folder / "annotations").exists():
        make(options.folder, options.images)
    measure(options.folder)


if __name__ == "__main__":
    cli.run(main)
