"""Slices of a split, against those that TFDS reads."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from naturel_jax.config.record_fields import Fields
from naturel_jax.data import datasets
from naturel_jax.data.batches.planner import MixturePart, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.seen import identity, training_images
from tests.helpers import record_files as files
from tests.helpers.caption_groups import processor
from tests.helpers.worlds import data_dir
from tfds_naturel.common.errors import UserError


def ids(source: datasets.Source) -> list[str]:
    return [source.items.image_ids[n] for n in source.items.images(np.arange(len(source.items)))]


@pytest.mark.parametrize("cut", ["[:7]", "[10%:]", "[-5:]", "[12:33]", "[:33%]", "[39:]"])
def test_a_slice_has_the_images_that_tfds_reads(cut):
    builder = tfds.builder("naturel/tiny", data_dir=str(data_dir()))
    expected = [record["image_id"].decode() for record in builder.as_data_source(f"validation{cut}")]
    assert ids(datasets.open_source("naturel/tiny", str(data_dir()), f"validation{cut}")) == expected


@pytest.mark.parametrize(
    ("split", "match"),
    [
        ("validation[:41]", r"split 'validation\[:41\]': Requested slice \[:41\] incompatible with 40 examples"),
        ("validation[:x]", r"Unrecognized split format: .*expected one slice of its 40 records, such as validation\[:"),
        ("validation[:1shard]", "shards are not counted"),
        ("validation[:9]+validation[20:]", "it is more than one slice; expected one slice of its 40 records"),
        ("validation[5:5]", "none of its images is trained on"),
        ("dev[:5]", "has no split 'dev'; expected one of: .*train"),
    ],
)
def test_error_names_a_slice_that_cannot_be_read(split, match):
    with pytest.raises(UserError, match=match):
        datasets.open_source("naturel/tiny", str(data_dir()), split)


@pytest.mark.parametrize("prefix", ["jsonl", "webdataset"])
def test_records_of_a_table_are_counted_with_the_bad_ones(prefix, tmp_path):
    dataset, fields = files.written(prefix, tmp_path)
    if prefix == "jsonl":
        path = tmp_path / "my.jsonl"
        path.write_text("{}\n" + "".join(path.read_text().splitlines(keepends=True)[1:]))
    whole, head, tail = (
        datasets.open_source(dataset, str(tmp_path / "data"), split, Fields(**fields), max_bad=0.1)
        for split in ("train", "train[:25%]", "train[6:]")
    )
    assert ids(head) + ids(tail) == ids(whole) and len(tail.items) == files.COUNT - 6
    assert len({source.content for source in (whole, head, tail)}) == 3
    # What was trained on is read for each slice, not taken from one that was opened before.
    for source in (whole, head, tail):
        seen = training_images.of_source(source)
        assert seen.images == len(source.items)
        for n in tail.items.images(np.arange(3)):
            assert seen.has([identity.content(source.read_image(n))])[0] == (source is not head)


def test_batches_have_images_of_the_slice_only():
    items = datasets.open_source("naturel/tiny", str(data_dir()), "train[10:18]").items
    part = MixturePart(items, recipe("two_pairs"))
    planner = Planner([part], processor("siglip"), batch_size=8, shards=1, seed=3, trim_eos=None)
    for step in range(3):
        assert sorted(planner.items(step)) == [(0, n) for n in range(10, 18)]
