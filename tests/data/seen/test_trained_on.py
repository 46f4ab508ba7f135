"""What a run trained on is left out of its scores: images by name, by their bytes and by what they look like."""

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image as PilImage

import naturel_jax
from naturel_jax import convert, evaluate, storage
from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.checkpoints import checkpoint, checkpoint_meta
from naturel_jax.config.record_fields import Fields
from naturel_jax.data import check, datasets
from naturel_jax.data.seen import identity, trained_on, training_images
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.evaluators import held_out as held_out_lib
from naturel_jax.evaluators import results
from naturel_jax.evaluators.held_out import hold_out
from naturel_jax.training.start import images_trained_on
from naturel_jax.weights import runs
from tests.helpers import benchmark_files as files
from tests.helpers.image_files import encoded
from tests.helpers.tiny_models import tiny
from tfds_naturel.common.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("val2014/COCO_val2014_000000391895.jpg", "coco:391895"),
        ("/data/coco/train2017/000000391895.jpg", "coco:391895"),
        ("COCO_train2014_000000391895", "coco:391895"),  # the image_id of naturel/coco_order
        ("webdataset/000000391895", "coco:391895"),
        ("000039189.jpg", ""),  # a number of img2dataset
        ("VG_100K_2/2331508.jpg", "visual_genome:2331508"),
        ("valse/images/visual7w/v7w_2331508.jpg", "visual_genome:2331508"),
        ("images/2331508.jpg", ""),
        ("train/0a1b2c3d4e5f6789.jpg", "open_images:0a1b2c3d4e5f6789"),
        ("flickr30k-images/1007129816.jpg", "file:1007129816"),
        ("PXL_20210704_101112.jpg", "file:PXL_20210704_101112"),
        ("photos/0001.jpg", ""),
        ("IMG_0001.jpg", ""),
        ("", ""),
    ],
)
def test_names(path, name):
    assert identity.of_name(path) == name


def test_near_hashes_are_those_that_differ_in_at_most_three_bits():
    """Against the comparison of all pairs."""
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2**64, 2000, np.uint64, endpoint=False)
    wanted = [int(h) for h in rng.integers(0, 2**64, 50, np.uint64, endpoint=False)]
    for n in range(400):  # of one to six bits from a known one
        flipped = np.bitwise_or.reduce(np.uint64(1) << rng.choice(64, 1 + n % 6, replace=False).astype(np.uint64))
        wanted.append(int(known[n] ^ flipped))
    known[-5:] = known[:5]  # equal ones
    known[-1] = np.uint64(2**64 - 1)
    wanted += [0, 2**64 - 1, int(known[7])]
    expected = (np.bitwise_count(np.array(wanted, np.uint64)[:, None] ^ known) <= 3).any(axis=1)
    np.testing.assert_array_equal(TrainedOn(perceptual=np.unique(known)).has_near(wanted), expected)
    assert 190 < expected.sum() < 220 and not TrainedOn().has_near([0]).any() and not TrainedOn().has([0]).any()


def test_record_round_trip_and_damage(tmp_path):
    folder = epath.Path(tmp_path / "record")
    assert trained_on.load(folder) is None
    seen = [identity.look(files.png(n)) for n in range(3)]
    several = TrainedOn.of(["coco:1", "", "coco:1"], seen, images=3)
    saved = TrainedOn.union([several, TrainedOn.of(["coco:2"], images=1)])
    saved.save(folder)
    loaded = trained_on.load(folder)
    assert (loaded.images, loaded.read, loaded.meta()) == (4, 3, saved.meta())
    assert isinstance(loaded.exact, np.memmap) and len(loaded.exact) == 5
    for name in ("exact", "perceptual"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
    TrainedOn().save(epath.Path(tmp_path / "empty"))
    assert not trained_on.load(epath.Path(tmp_path / "empty"))

    fields = storage.read_json(folder / "trained_on.json")
    storage.write_json(folder / "trained_on.json", fields | {"version": 2})
    with pytest.raises(UserError, match=r"trained_on\.json has version 2; this naturel_jax reads up to 1"):
        trained_on.load(folder)
    for broken in (fields | {"xxh3": "0"}, {"version": 1}, {}):
        storage.write_json(folder / "trained_on.json", broken)
        with pytest.raises(UserError, match=r"trained_on\.json: not what was written"):
            trained_on.load(folder)
    storage.write_json(folder / "trained_on.json", fields)
    data = bytearray((folder / "exact.uint64").read_bytes())
    data[3] ^= 1
    (folder / "exact.uint64").write_bytes(data)
    with pytest.raises(UserError, match="the arrays do not have the checksum noted here"):
        trained_on.load(folder)


def jpeg_copy(png: bytes) -> bytes:
    """The image with a few pixels less, as a JPEG."""
    with PilImage.open(io.BytesIO(png)) as image:
        smaller = image.resize((image.width - 8, image.height - 6))
    return encoded(smaller.convert("RGB"), "JPEG", quality=80)


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """SugarCrepe over five images, and training data that holds three of them: image 0 under its COCO name with other
    bytes, image 1's bytes under another name, and image 2 as a JPEG of another size; besides, another image."""
    files.sugarcrepe(tmp_path, items=5)
    images = [tmp_path / f"coco/val2017/{n:012d}.png" for n in range(5)]
    for n, path in enumerate(images):
        files.write(path, files.png(200 + n, (160, 120)))
    files.write(tmp_path / "train/COCO_val2014_000000000000.jpg", jpeg_copy(files.png(990)))
    files.write(tmp_path / "train/1.png", images[1].read_bytes())
    files.write(tmp_path / "train/2.jpg", jpeg_copy(images[2].read_bytes()))
    files.write(tmp_path / "train/3.png", files.png(991))
    rows = [{"image": path.name, "caption": "a cat"} for path in sorted((tmp_path / "train").iterdir())]
    files.write(tmp_path / "train/my.jsonl", b"\n".join(json.dumps(row).encode() for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images_of(benchmark: Benchmark) -> set[int]:
    return {int(Path(item.images[0].key).stem) for item in benchmark.items}


def found(source: str = "jsonl:train/my.jsonl") -> TrainedOn:
    return training_images.of_source(datasets.open_source(source, "data", "train"))


def test_images_are_recognized_by_name_bytes_and_look(photos):
    (whole,) = registry.read(["sugarcrepe"], files=photos)
    assert images_of(whole) == {0, 1, 2, 3, 4}
    record = found()
    assert (record.images, record.read) == (4, 4)
    held_out = hold_out(whole, record)
    numbers = {"name": 7, "bytes": 7, "look": 14}  # items: an image has one in each of seven files
    assert held_out_lib.count_overlaps(held_out, record) == {"images": 4, "read": 4, **numbers}
    assert held_out_lib.count_overlaps(whole, TrainedOn()) == {}
    assert images_of(held_out) == {3, 4} and {0, 1, 2} == images_of(dataclasses.replace(whole, items=held_out.left_out))
    assert images_of(hold_out(whole, dataclasses.replace(record, perceptual=np.empty(0, np.uint64)))) == {2, 3, 4}
    assert images_of(hold_out(whole, TrainedOn.of(["coco:4"]))) == {0, 1, 2, 3}
    assert hold_out(whole, TrainedOn()) is whole


def test_a_photo_that_was_replaced_is_looked_at_again(photos):
    (before,) = registry.read(["sugarcrepe"], files=photos)
    assert images_of(hold_out(before, record := found())) == {3, 4}
    files.write(photos / f"coco/val2017/{3:012d}.png", (photos / "train/1.png").read_bytes())
    (after,) = registry.read(["sugarcrepe"], files=photos)
    assert images_of(hold_out(after, record)) == {4}


def test_images_are_read_once_or_by_the_check(photos, monkeypatch, caplog):
    """The result is kept; a source with too many images to read before training is read by the command."""
    first = found()
    looks = []
    look = identity.look
    monkeypatch.setattr(identity, "look", lambda *options: looks.append(1) or look(*options))
    assert found().meta() == first.meta() and not looks
    monkeypatch.setattr(training_images, "MOST", 3)
    source = "csv:train/my.csv"
    rows = "".join(f"{path.name},a cat\n" for path in sorted((photos / "train").glob("*.*g")))
    files.write(photos / "train/my.csv", f"image,caption\n{rows}none.png,a cat\n".encode())
    unread = found(source)
    assert (unread.images, unread.read, len(unread.exact)) == (5, 0, 1)
    assert "5 images are too many to read before training" in caplog.text
    check.check(source, "data", "train", Fields(), 1)
    assert len(looks) == 4
    checked = training_images.of_source(datasets.open_source(source, "data", "train", max_bad=0.5))
    assert (checked.images, checked.read, checked.checksum()) == (4, 4, first.checksum())


def test_images_replaced_under_their_names_are_noticed(photos, caplog):
    """The index knows the paths of images, not what is in them: scores would leave out those that were there before,
    and a run would go on with others."""
    first = found()
    source = datasets.open_source("jsonl:train/my.jsonl", "data", "train")
    assert training_images.changed(source, first) == "" == training_images.changed(source, TrainedOn.of(["coco:4"]))
    files.write(photos / "train/3.png", files.png(992))
    assert training_images.changed(source, first) == "3.png"
    second = found()
    assert "the image 3.png is another one than before; all are read again" in caplog.text
    assert second.has([identity.content(files.png(n)) for n in (991, 992)]).tolist() == [False, True]
    (photos / "train/3.png").unlink()
    assert training_images.changed(source, second) == ""

    save_run(photos / "run", {})
    second.save(epath.Path(photos / "run/trained_on"))
    assert images_trained_on("", epath.Path(photos / "run"), [source]).meta() == second.meta()
    files.write(photos / "train/3.png", files.png(993))
    with pytest.raises(UserError, match=r"the image 3.png is another one than when the run in .*run began; restore it"):
        images_trained_on("", epath.Path(photos / "run"), [source])


def test_other_collections(tmp_path):
    """ARO's images are Visual Genome's, Winoground's items have names; video frames and renderings have none."""
    files.visual_genome(tmp_path, items=6)
    files.winoground(tmp_path)
    files.whatsup(tmp_path)
    relation, winoground, whatsup = registry.read(["vg_relation", "winoground", "whatsup"], files=tmp_path)
    trained = TrainedOn.of([identity.of_name("VG_100K/1.jpg"), identity.of_name("VG_100K_2/785.jpg"), "winoground:2"])
    names = {item.images[0].names for item in hold_out(relation, trained).items}
    assert names == {("visual_genome:0",), ("visual_genome:2",)}
    assert [item.id for item in hold_out(winoground, trained).left_out] == ["2"]
    assert [item.id for item in hold_out(whatsup, trained).left_out] == ["vg_qa_one_obj/0", "vg_qa_two_obj/0"]
    assert len(hold_out(whatsup, TrainedOn.of(["coco:785"])).left_out) == 2


def save_run(workdir: Path, meta: dict) -> None:
    model, _, processor = tiny()
    checkpoints = checkpoint.Checkpoints(workdir, keep=1)
    fields = checkpoint_meta.make_meta({"init": ""}, model.config, processor) | meta
    checkpoints.save(1, {"params": model.init(jax.random.key(0))}, fields, wait=True)
    checkpoints.close()


def test_evaluation_reports_scores_without_and_with_what_was_trained_on(photos, capsys):
    """Against the items of the same model, evaluated as one that was trained on nothing."""
    record = found()
    record.save(epath.Path("run") / trained_on.FOLDER)
    save_run(Path("run"), {"trained_on": record.meta()})
    save_run(Path("other"), {"trained_on": None})
    flags = ["--benchmarks", "sugarcrepe", "--benchmarks_dir", str(photos), "--out", "out", "--batch_size", "8"]
    evaluate.main(["--models", "M=run:run", "other=run:other", *flags])
    result, other = results.load(Path("out"))
    assert (result.items, result.left_out) == (14, 21), "of each of the seven files, images 3 and 4"
    assert (other.items, other.left_out, other.with_trained_on) == (35, 0, {})
    rows = results.load_items(Path("out"), "other", "sugarcrepe")
    (whole,) = registry.read(["sugarcrepe"], files=photos)
    for metric in whole.metrics:
        of_metric = [row for row in rows if row["tags"][metric.where[0]] == metric.where[1]]
        scored = [row["outcome/right"] for row in of_metric if int(Path(row["images"][0]).stem) in (3, 4)]
        assert result.scores[metric.name]["value"] == pytest.approx(np.mean(scored))
        everything = np.mean([row["outcome/right"] for row in of_metric])
        assert result.with_trained_on[metric.name] == pytest.approx(everything)
    assert result.with_trained_on != {name: score["value"] for name, score in result.scores.items()}

    line = "M on sugarcrepe: 14 of 7,511 published items, 21 left out because it was trained on their images"
    with_add = f"sugarcrepe/add {result.scores['sugarcrepe/add']['value']:.3f} without them, "
    with_add += f"{result.with_trained_on['sugarcrepe/add']:.3f} with them"
    assert line in capsys.readouterr().out
    for name in ("report.md", "report.html"):
        assert line.replace("_", "\\_") in (text := Path("out", name).read_text()) and with_add in text
    with Path("out/scores.csv").open(newline="") as file:
        cells = {row["metric"]: row["with_trained_on"] for row in csv.DictReader(file) if row["model"] == "M"}
    assert {name: float(value) for name, value in cells.items()} == result.with_trained_on
    evaluate.main(["--models", "M=run:run", *flags])
    assert "already done" in capsys.readouterr().out


def test_run_without_its_record_is_not_evaluated(photos):
    record = found()
    save_run(Path("run"), {"trained_on": record.meta()})
    with pytest.raises(UserError, match=r"run/trained_on is missing: .* copy it from where the run was trained"):
        runs.trained_on("run")
    TrainedOn.of(["coco:1"]).save(epath.Path("run/trained_on"))
    with pytest.raises(UserError, match=r"run/trained_on is another run's"):
        runs.trained_on("run")


@pytest.mark.slow
def test_converted_run_knows_what_its_sources_were_trained_on(photos):
    for name, image in (("run", "coco:1"), ("base", "coco:2")):
        record = TrainedOn.of([image])
        record.save(epath.Path(name) / trained_on.FOLDER)
        save_run(Path(name), {"trained_on": record.meta()})
    save_run(Path("unknown"), {"trained_on": None})
    convert.main(["run:run", "both", "--to", "run", "--interpolate", "run:base"])
    naturel_jax.load("run:run").save("one", to="run")
    convert.main(["run:unknown", "none", "--to", "run"])
    numbers = [identity.number(name) for name in ("coco:1", "coco:2")]
    known = {name: runs.trained_on(name).has(numbers).tolist() for name in ("both", "one", "none")}
    assert known == {"both": [True, True], "one": [True, False], "none": [False, False]}


def test_exported_run_is_scored_as_the_run(photos):
    """From folder to folder, through the formats of other libraries: the same items are left out."""
    record = found()
    record.save(epath.Path("run") / trained_on.FOLDER)
    save_run(Path("run"), {"trained_on": record.meta()})
    convert.main(["run:run", "hf"])
    convert.main(["hf", "openclip", "--to", "openclip"])
    flags = ["--benchmarks", "sugarcrepe", "--benchmarks_dir", str(photos), "--out", "out", "--batch_size", "8"]
    evaluate.main(["--models", "run=run:run", "hf=hf", "openclip=openclip", *flags])
    scores = {(result.items, result.left_out): result.scores for result in results.load(Path("out"))}
    assert scores.keys() == {(14, 21)}
    assert images_trained_on("openclip", epath.Path("next"), []).checksum() == record.checksum()
    Path("hf/trained_on/exact.uint64").write_bytes(b"")
    with pytest.raises(UserError, match=r"hf/trained_on/trained_on\.json: not what was written"):
        naturel_jax.load("hf")
    shutil.rmtree("hf/trained_on")
    with pytest.raises(UserError, match=r"hf/trained_on is missing: checksums\.json .* copy the folder again"):
        naturel_jax.load("hf")
    TrainedOn.of(["coco:1"]).save(epath.Path("hf/trained_on"))
    with pytest.raises(UserError, match=r"hf/trained_on is another model's"):
        naturel_jax.load("hf")
