"""Tests that need TensorFlow and Beam (the build extra): TFDS's own test case, TFRecord, and Beam's direct runner.

Run by `make test-build`; the default suite skips this folder.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.helpers.open_images_files import write_world
from tfds_naturel import build, naturel
from tfds_naturel.open_images import plan

BEAM = "runner=DirectRunner,direct_num_workers=2,direct_running_mode=multi_processing"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("open_images"))


def _command(world, out, *more):
    return ["full", "--manual_dir", str(world), "--data_dir", str(out), "--unofficial", "--name", "test", *more]


def _built(out):
    return tfds.builder_from_directory(out / "naturel" / "test" / str(naturel.Naturel.VERSION))


def test_beam_with_two_workers_builds_the_same(world, tmp_path):
    build.main(_command(world, tmp_path / "plain"))
    # Beam's workers re-import the main module, which must not be pytest.
    command = [sys.executable, "-m", "tfds_naturel.build", *_command(world, tmp_path / "beam", "--beam", BEAM)]
    subprocess.run(command, check=True, timeout=300, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
    plain, beam = _built(tmp_path / "plain"), _built(tmp_path / "beam")
    assert plain.info.metadata == beam.info.metadata
    assert [s.shard_lengths for s in plain.info.splits.values()] == [s.shard_lengths for s in beam.info.splits.values()]
    for split in plan.SPLITS:
        raw = {"image": tfds.decode.SkipDecoding()}
        one, other = (b.as_data_source(split, decoders=raw) for b in (plain, beam))
        assert len(one) == len(other)
        for n in range(len(one)):
            np.testing.assert_equal(one[n], other[n])


def test_tfrecord_holds_the_same_examples_in_the_same_order(world, tmp_path):
    build.main(_command(world, tmp_path / "records", "--format", "tfrecord"))
    build.main(_command(world, tmp_path / "arrays"))
    source = _built(tmp_path / "arrays").as_data_source("train")
    dataset = _built(tmp_path / "records").as_dataset(split="train")
    count = 0
    for n, example in enumerate(tfds.as_numpy(dataset)):
        np.testing.assert_equal(
            {key: example[key] for key in ("image_id", "objects", "captions")},
            {key: source[n][key] for key in ("image_id", "objects", "captions")},
        )
        count += 1
    assert count == len(source) > 50


def _counts(folder: Path) -> dict[str, int]:
    build.main(_command(folder, folder / "counted"))
    return {name: split.num_examples for name, split in _built(folder / "counted").info.splits.items()}


class NaturelTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own checks of a builder: shapes, types, counts, disjoint splits, reloading."""

    DATASET_CLASS = naturel.Naturel
    BUILDER_CONFIG_NAMES_TO_TEST = (
        naturel.open_images(dataclasses.replace(naturel.OPEN_IMAGES["full"], name="test", official=False)),
    )

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _world(cls, tmp_path_factory):
        cls.EXAMPLE_DIR = str(write_world(tmp_path_factory.mktemp("examples")))
        cls.SPLITS = _counts(Path(cls.EXAMPLE_DIR))

    def _make_builder(self, config=None):
        # The test case reads with tf.data, which needs TFRecord.
        return naturel.Naturel(data_dir=self.tmp_dir, config=config, file_format="tfrecord")
