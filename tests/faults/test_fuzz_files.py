"""Captions, annotations, results, state files and photos that are mutated."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import Metric
from naturel_jax.config.record_fields import Fields
from naturel_jax.data import datasets
from naturel_jax.data.images.decode import open_image
from naturel_jax.data.items import records
from naturel_jax.evaluators import results
from naturel_jax.report import report
from naturel_jax.training import writers
from tests.helpers.benchmark_files import png
from tests.helpers.fuzzing import every_count, fuzz
from tests.helpers.image_files import photo
from tests.helpers.open_images_files import RELATIONS, row, write_release
from tfds_naturel.captions import bank, decisions
from tfds_naturel.common import photos
from tfds_naturel.common.files import reading_arrow
from tfds_naturel.hard_images import mining
from tfds_naturel.open_images import annotations, attribution, journal
from tfds_naturel.open_images.annotations import Buckets, Rejects, Vocabulary
from tfds_naturel.open_images.releases import RELEASES

RELEASE = RELEASES["v4"]


@every_count
def test_bank(tmp_path, count):
    published = bank.load()
    path = tmp_path / "bank.tsv"
    bank.save(path, dict(list(published.items())[:4]))
    fuzz([path], lambda: bank.load(path), count)


@every_count
def test_decisions(tmp_path, count):
    path = tmp_path / "decisions.csv"
    path.write_text("triplet,text,decision\nCat|on|Table,a cat,accept\nDog|on|Table,a dog,reject\n")
    fuzz([path], lambda: decisions.rejected(path), count)


@pytest.fixture
def release(tmp_path) -> Path:
    rows = [row(n, "Cat", "on", "Table") for n in range(6)] + [row(7, "Table", "is", "Wooden")]
    return write_release(tmp_path / "annotations", rows, range(6))


def spool(folder: Path, work: Path) -> None:
    rejects = Rejects(work / "rejects.csv")
    try:
        spool_to(folder, work, rejects)
    finally:
        rejects.close(1.0)


def spool_to(folder: Path, work: Path, rejects: Rejects) -> None:
    vocabulary = Vocabulary.read(folder, RELEASE)
    path = folder / RELEASE.rows.name
    buckets = Buckets(work, "rows", annotations.bucket_digits(path))
    annotations.spool(path, vocabulary, buckets, rejects)
    images = [image for prefix in buckets.prefixes for image in annotations.images(buckets, prefix)]
    assert all(triplet.relation in vocabulary.relations for image in images for triplet in image.triplets)
    known = Buckets(work, "known", annotations.bucket_digits(path))
    attribution.spool(folder / RELEASE.images.name, {image.image_id for image in images}, known, rejects)
    for prefix in known.prefixes:
        attribution.attributions(known, prefix)


@every_count
def test_open_images(tmp_path, release, count):
    names = (RELEASE.rows, RELEASE.classes, RELEASE.attributes, RELEASE.relations, RELEASE.images)
    assert RELATIONS
    fuzz([release / file.name for file in names], lambda: spool(release, tmp_path), count)


@every_count
def test_journal(tmp_path, count):
    path = tmp_path / "journal.csv"
    written = journal.Journal(path)
    written.add(journal.Entry("0" * 16, "ok", photos.Photo(10, 64, 48, 7)))
    written.add(journal.Entry("1" * 16, "missing", None, "HTTP 404"))
    written.close()
    fuzz([path], lambda: journal.read(path), count)


@every_count
def test_hard_images(tmp_path, count):
    path, ids = tmp_path / "hard_images.parquet", ["a", "b", "c"]
    mining.save(path, [("a", "Cat|on|Table", ["b", "c"], ["subject", "object"]), ("b", "Cat|on|Table", ["c"], ["x"])])
    fuzz([path], lambda: mining.hard_images(path, ids), count)


def write_table(path: Path) -> None:
    rows = [
        {"image": "a.jpg", "caption": "a cat", "negatives": ["a dog", "a mat"]},
        {"image": "b.jpg", "caption": "a d\u00f6g", "negatives": ["a cat"]},
    ]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        path.write_text("image,caption\n" + "".join(f"{one['image']},{one['caption']}\n" for one in rows))
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))


@every_count
@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_table(tmp_path, kind, count):
    path = tmp_path / f"rows.{kind}"
    write_table(path)

    def read() -> None:
        table = datasets.open_unindexed(f"{kind}:{path}", str(tmp_path), "train")
        for shard in table.shards:
            with reading_arrow(shard.file, "copy it again"):
                for one in shard.rows():
                    records.to_record(one, records.choose(Fields()), "name")

    fuzz([path], read, count, allowed=(records.BadRecord,))


@every_count
def test_metrics(tmp_path, count):
    path = epath.Path(tmp_path / "metrics.jsonl")
    path.write_text("".join(json.dumps({"step": n, "train/loss": 0.5}) + "\n" for n in range(5)))
    fuzz([Path(path)], lambda: writers.drop_lines(path, 3), count)


@pytest.fixture
def evaluation(tmp_path) -> Path:
    """The folder of a result."""
    score = {"value": 0.5, "count": 2, "low": 0.0, "high": 1.0}
    scores = dict.fromkeys(("vg_relation/macro", "vg_relation/relation/on"), score)
    blind = {"text norm": {"vg_relation/macro": 0.5}}
    definitions = {"vg_relation/macro": Metric("vg_relation/macro", "right", macro="counted")}
    result = results.Result("a", "vg_relation", "f", 1, 2, 0, ("a problem",), scores, blind, definitions)
    folder = results.folder_of(tmp_path, "a", "vg_relation")
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps({"version": results.VERSION, **dataclasses.asdict(result)}))
    return folder


@every_count
def test_scores(tmp_path, evaluation, monkeypatch, count):
    for plot in ("by_relation", "forgetting_against_gain"):  # a second each
        monkeypatch.setattr(report.plots, plot, lambda *_, **theme: None)
    fuzz([evaluation / "scores.json"], lambda: report.write(tmp_path), count)


@every_count
def test_lease(tmp_path, count):
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({"token": "t", "host": "elsewhere", "process": 1, "since": 0.0}))

    def take() -> None:
        with storage.lease(epath.Path(tmp_path), period_s=0.01):
            pass

    fuzz([path], take, count, must_refuse=False)  # a damaged lease is a stale one


@every_count
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_images(tmp_path, form, count):
    path = tmp_path / "image"
    path.write_bytes(photo(64, 48, form=form))
    fuzz([path], lambda: open_image(path.read_bytes()), count)


@every_count
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_photos(tmp_path, form, count):
    path = tmp_path / "photo"
    path.write_bytes(photo(64, 48) if form == "JPEG" else png(0))

    def use() -> None:
        photos.to_jpeg(path.read_bytes(), 32, 90)
        if form == "JPEG":
            photos.inspect(path.read_bytes())

    fuzz([path], use, count, (photos.BadPhoto,))
