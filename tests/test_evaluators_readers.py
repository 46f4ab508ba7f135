"""Every reader on files in the official format, and what it refuses."""

import io
import json
import zipfile
from pathlib import Path

import benchmark_files as files
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from naturel_jax.benchmarks import naturel, order, registry, valse
from naturel_jax.benchmarks.files import BenchmarkError
from tfds_naturel import schema


def read(name: str, root: Path):
    return registry.load([name], root)[0]


def pixels(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.read())).convert("RGB"))


def test_winoground(tmp_path):
    files.winoground(tmp_path, items=4)
    files.write(tmp_path / "winoground/new_tag_assignments.json", {"0": [], "1": ["Unusual Text", "Unusual Image"]})
    benchmark = read("winoground", tmp_path)
    assert benchmark.problems == () and benchmark.published == 400
    item = benchmark.items[1]
    assert item.captions == ("a dog on a box 1", "a box on a dog 1")
    assert item.tags == {"collapsed_tag": "Relation", "secondary_tag": (), "why": ("Unusual Text", "Unusual Image")}
    assert [image.read() for image in item.images] == [files.png(2), files.png(3)]
    names = {metric.name for metric in benchmark.metrics}
    assert {"winoground/text", "winoground/group/Object", "winoground/matching", "winoground/image/No Tag"} <= names
    assert "winoground/text/Unusual Text" in names


def test_winoground_from_the_hub(tmp_path):
    rows = files.winoground(tmp_path / "official")
    for row in rows:
        row |= {f"image_{k}": {"bytes": files.png(2 * row["id"] + k), "path": "x.png"} for k in (0, 1)}
    (tmp_path / "winoground").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "winoground/test-00000-of-00001.parquet")
    hub, official = read("winoground", tmp_path), read("winoground", tmp_path / "official")
    assert [(i.id, i.captions, i.tags) for i in hub.items] == [(i.id, i.captions, i.tags) for i in official.items]
    assert [[x.read() for x in i.images] for i in hub.items] == [[x.read() for x in i.images] for i in official.items]


def test_visual_genome(tmp_path):
    files.visual_genome(tmp_path, items=6)
    relation, attribution = read("vg_relation", tmp_path), read("vg_attribution", tmp_path)
    assert relation.problems == attribution.problems == ()
    item = relation.items[4]
    assert (item.images[0].box, item.images[0].read()) == ((4, 2, 44, 32), files.png(101))
    assert item.captions == ("the cat is under the box 4", "the box is under the cat 4")
    cosines = [np.array([[r, 0.5]]) for r in (1, 0, 0, 1, 1, 0)]  # on: 2 of 2, under: 1 of 2, near (symmetric): 0 of 2
    scores = {name: (s.value, s.count) for name, s in relation.score(relation.items, cosines).items()}
    assert scores["vg_relation/macro"] == (0.75, 4) and scores["vg_relation/micro"] == (0.75, 4)
    assert scores["vg_relation/relation/near"] == (0, 2)
    assert "vg_attribution/macro" not in attribution.score(attribution.items, cosines), "fewer than 25 cases"
    many = files.visual_genome(tmp_path, items=25)[1]
    attribution = read("vg_attribution", tmp_path)
    assert attribution.score(attribution.items, [np.array([[1, 0]])] * len(many))["vg_attribution/macro"].count == 25
    (tmp_path / "aro/vgr_excluded_relations.json").unlink()
    assert "symmetric relations count too" in read("vg_relation", tmp_path).problems[0]


def test_sugarcrepe_pools_its_groups(tmp_path):
    files.sugarcrepe(tmp_path, items=2)
    for name, number in (("swap_obj", 1), ("swap_att", 3)):
        rows = json.loads((tmp_path / f"sugarcrepe/{name}.json").read_text())
        files.write(tmp_path / f"sugarcrepe/{name}.json", {str(n): rows["0"] for n in range(number)})
    benchmark = read("sugarcrepe", tmp_path)
    right = [float(item.tags["subset"] == "swap_obj") for item in benchmark.items]
    scores = benchmark.score(benchmark.items, [np.array([[r, 0.5]]) for r in right])
    assert scores["sugarcrepe/swap_obj"].value == 1 and scores["sugarcrepe/swap_att"].value == 0
    assert (scores["sugarcrepe/swap"].value, scores["sugarcrepe/swap"].count) == (0.25, 4), (
        "one of four, not the mean of means"
    )


def test_order(tmp_path, monkeypatch):
    captions = ["A big dog sees the small cats. ", "Two cats"]
    files.write(tmp_path / "coco/coco_karpathy_test.json", [{"image": "val2014/a.png", "caption": captions}])
    files.write(tmp_path / "coco/val2014/a.png", files.png(1))
    tags = {"A": "DT", "big": "JJ", "dog": "NN", "sees": "VBZ", "small": "JJ", "cats": "NNS", "Two": "CD", ".": "."}
    monkeypatch.setattr(order, "spacy_tags", lambda texts: [[(w, tags.get(w, "X")) for w in t.split()] for t in texts])
    benchmark = read("coco_order", tmp_path)
    assert [len(item.captions) for item in benchmark.items] == [5, 5]
    assert benchmark.items[0].captions[0] == "a big dog sees the small cats"
    assert all(
        sorted(c.split()) == sorted(["a", "big", "dog", "sees", "the", "small", "cats"])
        for c in benchmark.items[0].captions
    )
    assert [i.captions for i in read("coco_order", tmp_path).items] == [i.captions for i in benchmark.items]
    scores = benchmark.score(benchmark.items, [np.array([[0.5, 0.5, 0.1, 0.1, 0.1]]), np.array([[0.1, 0.5, 0, 0, 0]])])
    assert scores["coco_order/precision@1"].value == 0.5 and scores["coco_order/ties"].value == 0.5
    assert scores["coco_order/no_op"].value >= 0.5, "'Two cats' has one noun and one other word"


def test_retrieval(tmp_path):
    rows = [{"image": f"flickr30k-images/{n}.png", "caption": [f"caption {n} {k}" for k in range(5)]} for n in range(3)]
    files.write(tmp_path / "flickr30k/flickr30k_test.json", rows)
    for n in range(3):
        files.write(tmp_path / f"flickr30k/flickr30k-images/{n}.png", files.png(n))
    benchmark = read("flickr30k_retrieval", tmp_path)
    assert all(len(item.captions) == 15 for item in benchmark.items)
    own = np.kron(np.eye(3), np.ones((1, 5)))
    scores = benchmark.score(benchmark.items, list(own[:, None]))
    assert (
        scores["flickr30k_retrieval/image_to_text@1"].value == scores["flickr30k_retrieval/text_to_image@1"].value == 1
    )


def test_whatsup(tmp_path):
    options = ["a mug on a table", "a mug under a table", "a mug left of a table", "a mug right of a table"]
    for file, folder, relations in (
        ("controlled_images_dataset", "controlled_images", ("left_of", "right_of", "on", "under")),
        ("controlled_clevr_dataset", "controlled_clevr", ("left_of", "right_of", "in-front_of", "behind")),
    ):
        names = [f"data/{folder}/mug_{relation}_table.jpeg" for relation in relations]
        files.write(tmp_path / f"whatsup/{file}.json", [{"image_path": n, "caption_options": options} for n in names])
        for name in names:
            files.write(tmp_path / "whatsup" / name.removeprefix("data/"), files.png(1))
    for source in ("coco", "vg"):
        for number in ("one", "two"):
            files.write(tmp_path / f"whatsup/{source}_qa_{number}_obj.json", [[785, "a cat left", "a cat right"]])
    files.write(tmp_path / "coco/val2017/000000000785.jpg", files.png(1))
    files.write(tmp_path / "whatsup/vg_images/785.jpg", files.png(2))
    benchmark = read("whatsup", tmp_path)
    assert benchmark.problems == () and len(benchmark.items) == 12
    right = [1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0]
    scores = benchmark.score(
        benchmark.items,
        [np.array([[r, 0.5] + [0.1] * (len(i.captions) - 2)]) for r, i in zip(right, benchmark.items, strict=True)],
    )
    values = {name: score.value for name, score in scores.items()}
    assert [values[f"whatsup/{s}"] for s in ("A", "A/pair", "A/set", "B", "B/pair", "B/set")] == [0.75, 0.5, 0, 1, 1, 1]
    assert values["whatsup/coco_qa_one_obj"] == 1 and values["whatsup/coco_qa_two_obj"] == 0


def test_sugarcrepe_pp(tmp_path):
    row = {"id": 7, "filename": "a.png", "caption": "p1", "caption2": "p2", "negative_caption": "n"}
    for name in ("swap_obj", "swap_att", "replace_obj", "replace_att", "replace_rel"):
        files.write(tmp_path / f"sugarcrepe_pp/{name}.json", [row])
    files.write(tmp_path / "coco/val2017/a.png", files.png(1))
    benchmark = read("sugarcrepe_pp", tmp_path)
    assert [item.captions for item in benchmark.items] == [("p1", "p2", "n")] * 5
    assert all(item.caption_rows for item in benchmark.items)


def test_hub_pairs(tmp_path):
    for name, columns, file in (
        ("bivlc", ("image", "negative_image", "caption", "negative_caption", "type", "subtype"), "test-00000.parquet"),
        (
            "colorswap",
            ("image_1", "image_2", "caption_1", "caption_2", "image_source", "caption_source"),
            "test-0.parquet",
        ),
    ):
        cells = [{"bytes": files.png(k), "path": None} for k in (1, 2)]
        row = dict(zip(columns, [*cells, "red cat", "blue cat", "swap", "swap_att"], strict=True))
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist([row, row | {columns[2]: None}]), tmp_path / name / file)
        benchmark = read(name, tmp_path)
        assert [i.read() for i in benchmark.items[0].images] == [files.png(1), files.png(2)]
        assert benchmark.items[0].captions == ("red cat", "blue cat")
        assert len(benchmark.items) == 1 and "row 1" in benchmark.problems[0]
    (tmp_path / "bivlc/test-00000.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BenchmarkError, match=r"test-00000\.parquet: not a readable Parquet file"):
        read("bivlc", tmp_path)


def test_eqben(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, rgb[..., ::-1])
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}]), allow_pickle=True)
    images = tmp_path / "eqben/images"
    files.write(images / "eqbenyoucook2/0.npy", buffer.getvalue())
    files.write(images / "eqbenyoucook2/1.png", files.png(1))
    files.write(images / "eqbenag/bad.npy", pickled.getvalue())
    row = {"image0": "eqbenyoucook2/0.npy", "image1": "eqbenyoucook2/1.png", "caption0": "a", "caption1": "b"}
    listed = {"image0": "eqbenag/bad.npy", "image1": "eqbenag/bad.npy", "caption0": ["first", "2nd"], "caption1": ["b"]}
    files.write(tmp_path / "eqben/all_select.json", [row])  # the form of the one file for all sources
    files.write(tmp_path / "eqben/ann_ag.json", {"video": {"person": [listed]}})  # Action Genome's own
    benchmark = read("eqben", tmp_path)
    youcook2, ag = benchmark.items
    assert (ag.captions, youcook2.captions) == (("first", "b"), ("a", "b"))
    assert (ag.tags["source"], youcook2.tags["source"]) == ("eqbenag", "eqbenyoucook2")
    np.testing.assert_array_equal(pixels(youcook2.images[0]), rgb)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        ag.images[1].read()


def test_valse_keeps_validated_items(tmp_path):
    for name in valse.IMAGES:
        files.write(tmp_path / f"valse/data/{name}.json", {})
    row = {"image_file": "a.png", "caption": "there are cats", "foil": "there are no cats"}
    votes = {str(n): row | {"mturk": {"caption": n, "foil": 3 - n, "other": 0}} for n in range(4)}
    files.write(tmp_path / "valse/data/existence.json", votes)
    files.write(tmp_path / "valse/images/visual7w/a.png", files.png(1))
    assert [item.id for item in read("valse", tmp_path).items] == ["existence/2", "existence/3"]


def test_valse_finds_coco_by_the_names_of_its_files(tmp_path):
    for name in valse.IMAGES:
        files.write(tmp_path / f"valse/data/{name}.json", {})
    places = {
        ("coreference-standard", "COCO_train2014_000000000001.png"): "coco/train2014",
        ("coreference-standard", "COCO_val2014_000000000002.png"): "coco/val2014",
        ("relations", "000000000003.png"): "coco/val2017",
    }
    rows = {}
    for n, ((name, image), folder) in enumerate(places.items()):
        record = {"image_file": image, "caption": "a", "foil": "b", "mturk": {"caption": 3}}
        rows.setdefault(name, {})[str(n)] = record
        files.write(tmp_path / folder / image, files.png(n))
    for name, found in rows.items():
        files.write(tmp_path / f"valse/data/{name}.json", found)
    benchmark = read("valse", tmp_path)
    assert not benchmark.problems
    read_back = {item.id: item.images[0].read() for item in benchmark.items}
    assert read_back == {f"{name}/{n}": files.png(n) for n, (name, _) in enumerate(places)}


def test_vsr(tmp_path):
    rows = [
        {"image": "a.png", "caption": "The cat is left of the dog.", "label": n, "relation": "left of"}
        for n in (0, 1, 2)
    ]
    for split in ("dev", "test"):
        files.write(tmp_path / f"vsr/{split}.jsonl", "\n".join(json.dumps(row) for row in rows).encode())
    files.write(tmp_path / "vsr/images/a.png", files.png(1))
    benchmark = read("vsr", tmp_path)
    assert [item.id for item in benchmark.items] == ["dev/0", "dev/1", "test/0", "test/1"]
    assert all("expected 0 or 1" in problem for problem in benchmark.problems)


class Flowers(tfds.core.GeneratorBasedBuilder):
    """A labelled TFDS dataset."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["red_rose", "tulip"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        for n in range(3):
            yield n, {"image": io.BytesIO(files.png(n)), "label": n % 2}


def test_zeroshot(tmp_path):
    for n, name in enumerate(("alpine_chough", "robin")):
        files.write(tmp_path / f"zeroshot/birds/{name}/a.png", files.png(n))
    files.write(tmp_path / "zeroshot/birds/templates.txt", b"a photo of a {}.\na drawing of a {}.\n")
    builder = Flowers(data_dir=tmp_path / "tfds", file_format="array_record")
    builder.download_and_prepare()
    (tmp_path / "zeroshot/flowers").symlink_to(builder.data_dir)
    benchmark = read("zeroshot", tmp_path)
    birds, flowers = benchmark.items[:2], benchmark.items[2:]
    assert birds[0].captions[0] == ("a photo of a alpine chough.", "a drawing of a alpine chough.")
    assert [item.tags["label"] for item in birds] == ["0", "1"]
    assert flowers[0].captions == (("a photo of a red rose.",), ("a photo of a tulip.",))
    assert sorted(item.images[0].read() for item in flowers) == sorted(files.png(n) for n in range(3))
    scores = benchmark.score(benchmark.items, [np.array([[0.5, 0.1]])] * 5)
    assert (scores["zeroshot/birds/top1"].value, scores["zeroshot/flowers/top1"].count) == (0.5, 3)


@pytest.mark.parametrize("templates", ["", "a photo of it.", "a {} of {0}.", "a {} or {name}.", "a {} }."])
def test_zeroshot_refuses_prompts_that_no_name_fits_into(tmp_path, templates):
    files.write(tmp_path / "zeroshot/birds/robin/a.png", files.png(0))
    files.write(tmp_path / "zeroshot/birds/templates.txt", templates.encode())
    with pytest.raises(BenchmarkError, match=r"birds/templates\.txt: expected one prompt per line"):
        read("zeroshot", tmp_path)


class TwoPictures(tfds.core.GeneratorBasedBuilder):
    """Two examples with the features of NatuRel; the second lacks a negative."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=schema.features())

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        for n in range(2):
            captions = [
                schema.Caption(
                    f"{polarity} {pair}",
                    "complex" if pair else "simple",
                    polarity,
                    pair,
                    schema.Triplet("Cat", ("on", "under")[n], "Table"),
                    None,
                    "",
                    "",
                ).as_features()
                for pair in range(schema.PAIRS)
                for polarity in ("positive", "negative")
            ]
            empty = {"objects": [], "relations": [], "license": "", "author": "", "source_url": ""}
            rows = captions[: 8 - n]
            yield n, {"image": io.BytesIO(files.png(n)), "image_id": f"id{n}", "captions": rows} | empty


def test_naturel(tmp_path):
    builder = TwoPictures(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    benchmark = naturel.read(builder.data_path)
    by_id = {item.id: item for item in benchmark.items}
    assert len(by_id) == 7 and benchmark.problems == ("item id1/Cat|under|Table/3: has no negative caption",)
    item = by_id["id0/Cat|on|Table/2"]
    assert item.captions == ("positive 2", "negative 2") and item.images[0].read() == files.png(0)
    right = {item_id: float(item_id.endswith("/1")) for item_id in by_id}
    scores = benchmark.score(benchmark.items, [np.array([[right[i.id], 0.5]]) for i in benchmark.items])
    values = {name: (score.value, score.count) for name, score in scores.items()}
    assert values["naturel/simple"] == (0, 2) and values["naturel/complex"] == (0.4, 5)
    assert values["naturel/complex/relation/under"] == (0.5, 2)
    assert values["naturel/complex/triplet/Cat|on|Table"] == (pytest.approx(1 / 3), 3)
    with pytest.raises(BenchmarkError, match="no split 'test_unseen_triplets'; it has test"):
        naturel.read(builder.data_path, "test_unseen_triplets")
    with pytest.raises(BenchmarkError, match="not a prepared TFDS folder"):
        naturel.read(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_0": "../../secret"}, "leaves its folder"),
        ({"image_0": "/etc/passwd"}, "leaves its folder"),
        ({"image_0": "ex_9_img_9"}, "image 'ex_9_img_9.png' is not in"),
        ({"caption_0": 3}, "field 'caption_0' is 3, expected str"),
        ({"id": 1}, "its id appears twice"),
        ({"id": True}, "field 'id' is True, expected int"),
        ({"image_0": ""}, "is not in"),
    ],
)
def test_a_bad_record_is_named_and_left_out(tmp_path, changes, reason):
    files.winoground(tmp_path, items=3, **changes)
    benchmark = read("winoground", tmp_path)
    assert len(benchmark.items) == 2
    assert len(benchmark.problems) == 1 and reason in benchmark.problems[0] and "record" in benchmark.problems[0]


def test_a_record_without_a_field(tmp_path):
    files.sugarcrepe(tmp_path)
    path = tmp_path / "sugarcrepe/add_att.json"
    rows = json.loads(path.read_text())
    del rows["1"]["negative_caption"]
    files.write(path, rows | {"2": "text"})
    benchmark = read("sugarcrepe", tmp_path)
    assert benchmark.problems == (
        "add_att.json record 1: has no field 'negative_caption'",
        "add_att.json record 2: is a str, expected an object with fields filename, caption, negative_caption",
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"0": ', "broken JSON"),
        (b"\xff\xfe", "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b"[]", "holds a list; the official file is a JSON dict"),
        (b'{"0": {}, "0": {}}', "key '0' appears twice"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, content, reason):
    files.sugarcrepe(tmp_path)
    files.write(tmp_path / "sugarcrepe/swap_obj.json", content)
    with pytest.raises(BenchmarkError, match=r"swap_obj\.json: .*" + reason):
        read("sugarcrepe", tmp_path)


def test_a_missing_file_says_where_to_get_it(tmp_path):
    for name in registry.BENCHMARKS:
        with pytest.raises(FileNotFoundError, match=rf"{tmp_path}.*: (not found|no .*);"):
            read(name, tmp_path)
    with pytest.raises(ValueError, match=r"'winogrand'.*winoground"):
        registry.load(["winogrand"], tmp_path)


def test_archives_are_hostile(tmp_path, monkeypatch):
    files.winoground(tmp_path, items=2)
    monkeypatch.setattr("naturel_jax.benchmarks.files.MAX_IMAGE_BYTES", 1000)
    benchmark = read("winoground", tmp_path)
    assert not benchmark.items and all("bytes, refused" in problem for problem in benchmark.problems)
    archive = tmp_path / "winoground/images.zip"
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(BenchmarkError, match="not a readable zip file"):
        read("winoground", tmp_path)


def test_a_damaged_member_of_an_archive_raises_value_error(tmp_path):
    files.winoground(tmp_path, items=1)
    archive = tmp_path / "winoground/images.zip"
    with zipfile.ZipFile(archive) as opened:
        offset = opened.infolist()[0].header_offset + 60
    data = bytearray(archive.read_bytes())
    data[offset : offset + 200] = bytes(200)
    archive.write_bytes(data)
    with pytest.raises(ValueError, match=r"images\.zip, member images/ex_0_img_0\.png"):
        read("winoground", tmp_path).items[0].images[0].read()
