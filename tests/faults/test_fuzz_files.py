"""Annotations, results and state files that are mutated; other files are in test_readers.py."""

import json
from pathlib import Path

import pytest
from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import Metric
from naturel_jax.evaluators import results
from naturel_jax.report import report
from naturel_jax.training import writers
from tests.helpers.fuzzing import every_count, fuzz
from tests.helpers.open_images_files import RELATIONS, row, write_release
from tfds_naturel.common import photos
from tfds_naturel.open_images import annotations, attribution, boxes, journal
from tfds_naturel.open_images.annotations import Buckets, Rejects, Vocabulary
from tfds_naturel.open_images.releases import RELEASES

RELEASE = RELEASES["v4"]


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
    known, boxed = (Buckets(work, name, annotations.bucket_digits(path)) for name in ("known", "boxes"))
    image_ids = {image.image_id for image in images}
    attribution.spool(folder / RELEASE.images.name, image_ids, known, rejects)
    boxes.spool(folder / RELEASE.boxes.name, vocabulary.classes, image_ids, boxed, rejects)
    for prefix in known.prefixes:
        attribution.attributions(known, prefix)
        assert boxes.clear(boxed, prefix).keys() <= image_ids


@every_count
def test_open_images(tmp_path, release, count):
    assert RELATIONS
    fuzz([release / file.name for file in RELEASE.files], lambda: spool(release, tmp_path), count)


@every_count
def test_journal(tmp_path, count):
    path = tmp_path / "journal.csv"
    written = journal.Journal(path)
    written.add(journal.Entry("0" * 16, "ok", photos.Photo(10, 64, 48, 7)))
    written.add(journal.Entry("1" * 16, "missing", None, "HTTP 404"))
    written.close()
    fuzz([path], lambda: journal.read(path), count)


@every_count
def test_metrics(tmp_path, count):
    path = epath.Path(tmp_path / "metrics.jsonl")
    path.write_text("".join(storage.sealed({"step": n, "train/loss": 0.5}) + "\n" for n in range(5)))
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
    results.write(epath.Path(folder), result, results.table([], [], {}))
    return folder


@every_count
def test_scores(tmp_path, evaluation, monkeypatch, count):
    for plot in ("dots", "forgetting_against_gain"):  # a second each
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
