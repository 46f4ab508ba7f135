"""naturel-mine --query text and --foils: what is near to captions of a drawn world, whose facts are known; and a run
that trains on the foils.

Shape letters: N images, D embedding.
"""

import io
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as PilImage

from naturel_jax import embed, mine
from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.data import check, datasets
from naturel_jax.data.items import prepared
from naturel_jax.evaluators.embed import load_encoder
from naturel_jax.evaluators.pool import foils
from naturel_jax.weights import export
from tests.helpers.model_files import tiny
from tests.helpers.worlds import Run, data_dir, losses
from tfds_naturel.captions.relations import CONTRARIES
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Triplet
from tfds_naturel.hard_images import mining

pytestmark = pytest.mark.usefixtures("quick_compilation")


def _dataset() -> str:
    return os.fspath(datasets.directory(os.fspath(data_dir()), "naturel/tiny"))


def _mine(folder, name, *flags) -> None:
    mine.main(["--dataset", _dataset(), "--count=3", f"--out={folder / name}.parquet", "--query=text", *flags])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a model, and what is mined and the foils by it."""
    folder = tmp_path_factory.mktemp("foils")
    export.save(folder / "tiny", *tiny("tiny-clip"), form="hf")
    _mine(folder, "mined", f"--model={folder / 'tiny'}", f"--foils={folder / 'foils.parquet'}")
    return folder


@pytest.fixture(scope="module")
def examples() -> dict[str, dict]:
    records = prepared.open_split(_dataset(), "train").records
    return {example["image_id"].decode(): example for example in (records[n] for n in range(len(records)))}


def _shown(example) -> list[Triplet]:
    columns = (example["relations"][name] for name in ("subject", "relation", "object"))
    return [Triplet(*(value.decode() for value in row)) for row in zip(*columns, strict=True)]


def _true(example) -> dict[str, str]:
    """The true captions of an image in all wordings, and the triplet that each asserts."""
    columns = (example["captions"][name] for name in ("text", "asserts", "polarity"))
    return {text.decode(): fact.decode() for text, fact, polarity in zip(*columns, strict=True) if polarity == 1}


def test_nearest_images_are_those_of_the_first_true_caption_by_all_cosines(folder, examples):
    encoder, params = load_encoder(str(folder / "tiny"), dtype="float32", batch_size=64)
    captions: dict[str, str] = {}
    for example in examples.values():
        captions = {fact: text for text, fact in reversed(_true(example).items())} | captions
    ztxt = dict(zip(captions, encoder.captions(params, [*captions.values()]), strict=True))
    pictures = [Image(name, example["image"].__bytes__) for name, example in examples.items()]
    zimg_ND, ids, compared = encoder.images(params, pictures)[0], [*examples], 0
    for row in pq.read_table(folder / "mined.parquet").to_pylist():
        near = [name for name, kind in zip(row["negatives"], row["kinds"], strict=True) if kind == "nearest"]
        scores = zimg_ND @ ztxt[row["triplet"]]
        to_image, fact = zimg_ND @ zimg_ND[ids.index(row["image_id"])], Triplet.parse(row["triplet"])
        others = {*range(len(ids))} - {ids.index(name) for name in row["negatives"] if name not in near}
        left = [n for n in others if to_image[n] < 0.97 and not mining.may_hold(fact, _shown(examples[ids[n]]))]
        nearest = -np.sort(-scores[left])[: len(near)]
        np.testing.assert_allclose(scores[[ids.index(name) for name in near]], nearest, atol=1e-5)
        compared += len(near)
    assert compared > 100
    assert json.loads((folder / "mined.parquet.json").read_text())["query"] == "text"


def test_a_pool_finds_the_same_for_its_model_only(folder):
    pool, model = f"--pool={folder / 'pool'}", f"--model={folder / 'tiny'}"
    source = "--source=naturel/tiny", f"--data_dir={data_dir()}", f"--out={folder / 'pool'}"
    embed.main([model, *source, "--store=float32", "--batch_size=64"])
    _mine(folder, "pooled", pool, model)
    assert pq.read_table(folder / "pooled.parquet") == pq.read_table(folder / "mined.parquet")
    for share in ("1/2", "0/2"):
        _mine(folder, "shared", pool, model, f"--share={share}")
    for suffix in ("parquet", "parquet.json"):
        assert (folder / f"shared.{suffix}").read_bytes() == (folder / f"pooled.{suffix}").read_bytes()
    with pytest.raises(UserError, match=r"pool was not embedded by --model .*tiny in --dtype bfloat16"):
        _mine(folder, "other", pool, model, "--dtype=bfloat16")
    (folder / "pool" / "pool.json").unlink()
    with pytest.raises(UserError, match=r"pool\.json: does not say which model embedded the pool"):
        _mine(folder, "other", pool, model)


def test_foils_are_captions_of_other_images_that_contradict_the_image(folder, examples, capsys):
    rows = pq.read_table(folder / "foils.parquet").to_pylist()
    claims = {(text, fact) for example in examples.values() for text, fact in _true(example).items()}
    assert len(rows) > 50
    for row in rows:
        example, pairs = examples[row["image_id"]], [*zip(row["positives"], row["negatives"], strict=True)]
        with PilImage.open(io.BytesIO(row["image"])) as picture:
            picture.verify()
        assert row["shows"] == [str(triplet) for triplet in _shown(example)] and len(pairs) > 3
        for (true, false), fact, claim in zip(pairs, row["asserts"], row["negative_asserts"], strict=True):
            assert {(true, fact), (false, claim)} <= claims and fact in row["shows"] and false not in _true(example)
            (subject, relation, object_), (other, _, thing) = Triplet.parse(fact), Triplet.parse(claim)
            if relation == "is":
                assert other == subject and thing in CONTRARIES[object_]
            else:
                assert {other, thing} == {subject, object_}
                assert not mining.may_hold(Triplet.parse(claim), _shown(example))
    assert check.main([f"parquet:{folder / 'foils.parquet'}"]) in (None, 0), "no record is bad"
    assert f"{len(rows)}" in capsys.readouterr().out


def test_a_dataset_without_captions_of_a_triplet_is_refused(tmp_path):
    class Silent(prepared.Records):
        def __getitem__(self, n):
            example = super().__getitem__(n)
            captions = example["captions"]
            return example | {"captions": captions | {"asserts": [b""] * len(captions["text"])}}

    records = prepared.open_split(_dataset(), "train").records
    silent = Silent(records._source, "tiny", ())
    with pytest.raises(UserError, match=r"no image has a true caption of '.*\|.*\|.*', which image 'tiny-train-0"):
        foils.write(tmp_path / "foils.parquet", silent, prepared.survey(records), None)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_trains_on_the_foils(folder):
    main = "--config.data.mixture.main"
    flags = [f"{main}.dataset=parquet:{folder / 'foils.parquet'}", f"{main}.recipe=one_pair"]
    flags += ["--config.eval.benchmarks=()", "--config.eval.during={}"]
    Run(folder / "run", *flags).finish()
    found = losses(folder / "run")
    assert len(found) == 20 and np.isfinite([*found.values()]).all()
