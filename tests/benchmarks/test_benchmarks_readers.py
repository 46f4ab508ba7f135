"""Every reader of official files, tested on small files in the official format."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from naturel_jax.benchmarks import order, sdci, suites
from naturel_jax.benchmarks.benchmark import Item
from naturel_jax.benchmarks.files import BenchmarkError
from naturel_jax.evaluators import confidence
from tests.helpers import benchmark_files as files
from tests.helpers.benchmark_files import read, values
from tfds_naturel.common.errors import UserError


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


@pytest.mark.parametrize(
    ("write", "name", "captions", "images"),
    [
        (files.sugarcrepe_pp, "sugarcrepe_pp", ("p1", "p2", "n"), [[1]] * 5),
        (files.naturalbench, "naturalbench_retrieval", ("a", "b"), [[0, 1]] * 2),
        (files.coco_counterfactuals, "coco_counterfactuals", ("a cat", "a dog"), [[0, 1]]),
        (files.docci, "docci_retrieval", ("A long one 0.", "A long one 2."), [[0], [2]]),  # the test split
    ],
)
def test_captions_and_images(write, name, captions, images, tmp_path):
    write(tmp_path)
    items = read(name, tmp_path).items
    assert {item.captions for item in items} == {captions}
    assert [[image.read() for image in item.images] for item in items] == [list(map(files.png, ns)) for ns in images]
    assert all(item.caption_rows == (name == "sugarcrepe_pp") for item in items)


def test_winoground_from_the_hub(tmp_path):
    rows = files.winoground(tmp_path / "official")
    for row in rows:
        row |= {f"image_{k}": {"bytes": files.png(2 * row["id"] + k), "path": "x.png"} for k in (0, 1)}
    (tmp_path / "winoground").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "winoground/test-00000-of-00001.parquet")
    hub, official = read("winoground", tmp_path), read("winoground", tmp_path / "official")
    assert [(i.id, i.captions, i.tags) for i in hub.items] == [(i.id, i.captions, i.tags) for i in official.items]
    assert [[x.read() for x in i.images] for i in hub.items] == [[x.read() for x in i.images] for i in official.items]


def test_winoground_rejects_an_inverted_tag_file(tmp_path):
    """A mapping from tag to items, as in the paper's table, would leave every item without a tag."""
    files.winoground(tmp_path, items=4)
    files.write(tmp_path / "winoground/new_tag_assignments.json", {"Unusual Text": ["1", "3"]})
    with pytest.raises(BenchmarkError, match=r"new_tag_assignments\.json: has 'Unusual Text': .* expected item id"):
        read("winoground", tmp_path)


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
    words = ["a", "big", "cats", "dog", "sees", "small", "the"]
    assert all(sorted(caption.split()) == words for caption in benchmark.items[0].captions)
    assert [i.captions for i in read("coco_order", tmp_path).items] == [i.captions for i in benchmark.items]
    scores = values(benchmark, [[[0.5, 0.5, 0.1, 0.1, 0.1]], [[0.1, 0.5, 0, 0, 0]]])
    assert scores["coco_order/precision@1"] == 0.5 and scores["coco_order/ties"] == 0.5
    assert scores["coco_order/no_op"] >= 0.5, "'Two cats' has one noun and one other word"


def test_retrieval(tmp_path):
    files.flickr30k(tmp_path)
    benchmark = read("flickr30k_retrieval", tmp_path)
    assert [len(item.captions) for item in benchmark.items] == [6] * 3
    scores = values(benchmark, list(np.kron(np.eye(3), np.ones((1, 2)))[:, None]))
    assert scores["flickr30k_retrieval/image_to_text@1"] == scores["flickr30k_retrieval/text_to_image@1"] == 1


def test_text_to_image_recall_averages_over_captions(tmp_path):
    """Image 0 has three captions, all retrieved; image 1 has one, not retrieved: 3/4, not the mean of 1 and 0."""
    rows = [{"image": "val2014/0.png", "caption": ["a", "b", "c"]}, {"image": "val2014/1.png", "caption": ["d"]}]
    files.write(tmp_path / "coco/coco_karpathy_test.json", rows)
    for n in range(2):
        files.write(tmp_path / f"coco/val2014/{n}.png", files.png(n))
    benchmark = read("coco_retrieval", tmp_path)
    cosines = [np.array([[0.9, 0.9, 0.9, 0.9]]), np.array([[0.1, 0.1, 0.1, 0.1]])]
    scores = values(benchmark, cosines)
    assert (scores["coco_retrieval/text_to_image@1"], scores["coco_retrieval/image_to_text@1"]) == (0.75, 0)
    bounds = confidence.intervals(benchmark, benchmark.items, benchmark.outcomes(benchmark.items, cosines))
    expected = "a bootstrap sample is image 0 twice (1), image 1 twice (0), or one of each (0.75)"
    assert bounds["coco_retrieval/text_to_image@1"] == (0, 1), expected


def test_whatsup(tmp_path):
    files.whatsup(tmp_path)
    benchmark = read("whatsup", tmp_path)
    assert benchmark.problems == () and len(benchmark.items) == 12
    right = zip([1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0], benchmark.items, strict=True)
    scores = values(benchmark, [[[r, 0.5] + [0.1] * (len(item.captions) - 2)] for r, item in right])
    assert [scores[f"whatsup/{s}"] for s in ("A", "A/pair", "A/set", "B", "B/pair", "B/set")] == [0.75, 0.5, 0, 1, 1, 1]
    assert scores["whatsup/coco_qa_one_obj"] == 1 and scores["whatsup/coco_qa_two_obj"] == 0


def test_hub_pairs(tmp_path):
    for name in files.HUB_COLUMNS:
        files.hub_pairs(tmp_path, name, {2: None})
        benchmark = read(name, tmp_path)
        assert [i.read() for i in benchmark.items[0].images] == [files.png(1), files.png(2)]
        assert benchmark.items[0].captions == ("red cat", "blue cat")
        assert len(benchmark.items) == 1 and "row 1" in benchmark.problems[0]
    (tmp_path / "bivlc/test-00000.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"test-00000\.parquet: not a readable Arrow or Parquet file"):
        read("bivlc", tmp_path)


def test_eqben(tmp_path):
    files.eqben(tmp_path)
    rgb, images = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8), tmp_path / "eqben/images"
    files.write(images / "eqbenyoucook2/0.npy", files.array(rgb[..., ::-1]))
    files.write(images / "eqbenag/0.npy", files.array(np.array([{"a": 1}])))  # pickled
    row = {"image0": "eqbenyoucook2/0.npy", "image1": "eqbenyoucook2/1.png", "caption0": "a", "caption1": "b"}
    files.write(tmp_path / "eqben/all_select.json", [row])
    benchmark = read("eqben", tmp_path)
    youcook2, ag = benchmark.items
    assert (ag.captions, youcook2.captions) == (("first", "b"), ("a", "b"))
    assert (ag.tags["source"], youcook2.tags["source"]) == ("eqbenag", "eqbenyoucook2")
    np.testing.assert_array_equal(pixels(youcook2.images[0]), rgb)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        ag.images[1].read()


def test_valse_keeps_validated_items(tmp_path):
    files.valse(tmp_path)
    assert [item.id for item in read("valse", tmp_path).items] == ["existence/2", "existence/3"]


def test_valse_finds_coco_images_by_file_name(tmp_path):
    files.valse(tmp_path)
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
    read_back = {item.id: item.images[0].read() for item in benchmark.items if not item.id.startswith("existence")}
    assert read_back == {f"{name}/{n}": files.png(n) for n, (name, _) in enumerate(places)}


def test_vsr(tmp_path):
    files.vsr(tmp_path, (0, 1, 2))
    benchmark = read("vsr", tmp_path)
    assert [item.id for item in benchmark.items] == ["dev/0", "dev/1", "test/0", "test/1"]
    assert all("expected 0 or 1" in problem for problem in benchmark.problems)


def test_negbench(tmp_path):
    files.negbench(tmp_path)
    for kind in ("coco", "voc"):
        assert [item.images[0].read() for item in read(f"negbench_{kind}", tmp_path).items] == [
            files.png(0),
            files.png(1),
        ]
    benchmark = read("negbench_synthetic", tmp_path)
    first, second = (item.captions for item in benchmark.items)
    assert first == ("a cat 0", "a dog, no cat", "a dog", "no cat")
    assert second == ("a dog, no cat", "a cat 1", "a dog", "no cat"), "the true one is first"
    # A tie with a caption that the file lists before the true one is wrong, with a later one right.
    scores = values(benchmark, [[[0.5, 0.5, 0.1, 0.5]], [[0.5, 0.5, 0.1, 0.1]]])
    assert scores == {"negbench_synthetic/accuracy": 0.5, "negbench_synthetic/type/hybrid": 0.5}
    for kind in ("coco", "coco_negated", "synthetic", "synthetic_negated"):
        benchmark = read(f"negbench_{kind}_retrieval", tmp_path)
        assert benchmark.problems == () and benchmark.items[1].captions == ("a 0", "no b", "a 1", "no b")
        assert benchmark.items[1].images[0].read() == files.png(1)


def test_cola(tmp_path):
    files.cola(tmp_path)
    benchmark = read("cola", tmp_path)
    assert [item.captions for item in benchmark.items] == [(f"a red cat {n}", f"a black cat {n}") for n in range(2)]
    assert [[x.read() for x in item.images] for item in benchmark.items] == [
        [files.png(0), files.png(1)],
        [files.png(1), files.png(2)],
    ]
    assert benchmark.items[0].images[0].names == ("visual_genome:0",)
    # By its code, images x captions: each caption prefers its image, though image 0 prefers caption 1.
    assert values(benchmark, [[[0.3, 0.4], [0.2, 0.5]], [[0.3, 0.5], [0.2, 0.5]]])["cola/image"] == 0.5
    links = suites.cola_images(tmp_path)
    assert links["cola/images/2.jpg"] == "https://cs-people.bu.edu/array/data/vg_gqa_images/2.jpg" and len(links) == 3


def test_mmvp_vlm(tmp_path):
    files.mmvp(tmp_path)
    benchmark = read("mmvp_vlm", tmp_path)
    (item,) = benchmark.items
    assert item.captions == ("a photo of a red cat", "a photo of a blue cat")
    assert benchmark.problems == ("Questions.csv record 1: has no field 'id_1'",), "a line without a second one"
    assert [image.read() for image in item.images] == [files.png(1), files.png(2)]
    # Images x captions. Official: caption 1 takes image 1 if its share is above a half, caption 2 image 2 if not.
    for s, right in (([[0.5, 0.4], [0.4, 0.4]], 1), ([[0.4, 0.4], [0.4, 0.5]], 0), ([[0.5, 0.5], [0.4, 0.4]], 0)):
        assert values(benchmark, [s])["mmvp_vlm/accuracy"] == values(benchmark, [s])["mmvp_vlm/category/Texts"] == right
    assert values(benchmark, [[[0.5, 0.4], [0.4, 0.4]]])["mmvp_vlm/image"] == 0, "a tie is wrong"


def test_a_line_that_mmvp_vlm_has_lost_does_not_shift_the_pairs(tmp_path):
    files.mmvp(tmp_path)
    rows = [(n, "Texts", f"a {n}") for n in (1, 2, 4, 5, 6)]
    files.write(tmp_path / "mmvp_vlm/Questions.csv", files.table("Question ID,Type,Statement", rows))
    for n in (5, 6):
        files.write(tmp_path / f"mmvp_vlm/MLLM_VLM Images/Texts/{n}.jpg", files.png(n))
    benchmark = read("mmvp_vlm", tmp_path)
    expected = [("a photo of a 1", "a photo of a 2"), ("a photo of a 5", "a photo of a 6")]
    assert [item.captions for item in benchmark.items] == expected
    assert benchmark.problems == ("Questions.csv record 1: has no field 'id_1'",)


def test_svo_probes(tmp_path):
    files.svo(tmp_path)
    benchmark = read("svo_probes", tmp_path)
    assert [item.captions for item in benchmark.items] == [("a girl sits",)] * 2, "not the row of two kinds"
    assert [image.read() for image in benchmark.items[0].images] == [files.png(1), files.png(2)]
    expected = {"svo_probes/accuracy": 0.5, "svo_probes/negative/subject": 1.0, "svo_probes/negative/verb": 0.0}
    assert values(benchmark, [[[0.5], [0.4]], [[0.4], [0.4]]]) == expected


def test_crepe(tmp_path):
    files.crepe(tmp_path)
    for name in files.CREPE_SYSTEMATICITY:
        assert [item.id for item in read(name, tmp_path).items] == ["seen/0", "seen/1", "unseen/0", "unseen/1"]
    benchmark = read("crepe_atom", tmp_path)
    first, second = benchmark.items[:2]
    assert first.captions == ("a cat on a sofa 1", "a cat on a box", "a cat on a hat", "a cat on a mat")
    assert second.captions == ("a cat on a sofa 2", *first.captions[1:])
    assert [item.images[0].box for item in (first, second)] == [(4, 2, 44, 32)] * 2
    assert [item.images[0].read() for item in (first, second)] == [files.png(1), files.png(2)]
    assert second.images[0].names == ("visual_genome:2",)
    scores = values(benchmark, [[[0.5, 0.4, 0.3, 0.3]], [[0.4, 0.3, 0.5, 0.3]], *[[[0.5, 0.1, 0.1, 0.1]]] * 16])
    assert (scores["crepe_atom/accuracy"], scores["crepe_atom/complexity/4"]) == (pytest.approx(17 / 18), 0.5)


def test_spec(tmp_path):
    files.spec(tmp_path)
    text, image = read("spec_image_to_text", tmp_path), read("spec_text_to_image", tmp_path)
    assert text.items[1].captions == ("absolute_size 2", "absolute_size 0", "absolute_size 1"), "the true one is first"
    assert [i.read() for i in image.items[1].images] == [files.png(2), files.png(0), files.png(1)]
    # Of equals the first in the file: at answer 0 the true one, at answer 2 another.
    scores = values(text, [[[0.5, 0.5, 0.1]]] * 2 + [[[0.5, 0.1, 0.1]]] * 10)
    assert (scores["spec_image_to_text/accuracy"], scores["spec_image_to_text/subset/absolute_size"]) == (
        11 / 12,
        0.5,
    )
    for name in suites.SPEC_PARTS[1:]:
        files.write(
            tmp_path / f"spec/{name}/text2image.json", [{"query": "x", "keys": ["images/0.jpg"] * 2, "label": 1}]
        )
    image = read("spec_text_to_image", tmp_path)
    scores = values(image, [[[0.1], [0.5], [0.1]]] * 2 + [[[0.5], [0.1]]] * 5)
    assert scores["spec_text_to_image/accuracy"] == pytest.approx(5 / 6), "the mean over six parts, not seven items"


def test_bla(tmp_path):
    files.bla(tmp_path)
    benchmark = read("bla", tmp_path)
    assert benchmark.items[1].captions == ("True1 0", "True2 0", "False1 0", "False2 0"), "the first group"
    # As in the official code: a caption is right if it is in its half of the ranking.
    cosines = [[[0.4, 0.3, 0.2, 0.1]], [[0.4, 0.1, 0.2, 0.3]], [[0.1, 0.2, 0.3, 0.4]], *[[[0.2, 0.1, 0.1, 0.2]]] * 3]
    scores = values(benchmark, cosines)
    expected = {"active_passive": (1 + 0.5) / 2, "coordination": (0 + 0.5) / 2, "relative_clause": 0.5}
    assert {part: scores[f"bla/task/{part}"] for part in expected} == expected
    assert scores["bla/accuracy"] == pytest.approx(1.5 / 3)


def test_sdci(tmp_path):
    files.sdci(tmp_path)
    benchmark = read("sdci", tmp_path)
    sizes = {item.id: (len(item.images), len(item.captions)) for item in benchmark.items}
    # Two photos with two large parts; the third lacks summaries, which only the variant of whole photos does not need.
    expected = {"all_swaps/0": (6, 12), "all_swaps_pick5/0": (2, 12), "base_swaps/0": (3, 6), "all_hardest/0": (6, 12)}
    assert sizes == expected and len(benchmark.problems) == 3
    swaps, hardest = benchmark.items[0], benchmark.items[3]
    assert swaps.captions[:3] == ("0 base 0", "0 m-0-sc 0", "0 m-1-sc 0")
    assert (swaps.captions[-1], hardest.captions[-1]) == ("false 0", "false 2"), "of equals, the last"
    assert [image.box for image in swaps.images[:3]] == [None, (0, 0, 345, 345), (55, 5, 420, 360)], "15% around"


def test_sdci_as_in_the_official_code():
    rng = np.random.default_rng(0)
    for count, size in ((1, 8), (5, 3)):
        item = Item("", tuple("image" for _ in range(size)), ("",) * (size * (count + 1)))  # type: ignore[arg-type]
        s = rng.integers(0, 4, (size, size * (count + 1))) / 4
        own, false = s[:, : size * count], s[:, size * count :]
        right = [0, 0]
        for n in range(size):
            groups = [own[n, k * count : (k + 1) * count] for k in range(size)]
            pooled = [group.min() if k == n else group.max() for k, group in enumerate(groups)]
            right[0] += pooled.index(max(pooled)) == n
            right[1] += pooled[n] > false[n, n]
        scores = sdci.outcomes([item], [s])
        assert [scores["caption"][0] * size, scores["negative"][0] * size] == pytest.approx(right)


def test_dci_retrieval(tmp_path):
    """Expected as LoTLIP's dataloader joins the captions; all splits count."""
    files.dci(tmp_path)
    benchmark = read("dci_retrieval", tmp_path)
    assert benchmark.items[0].captions == ("A street. It is wet. A car. is red",) * 2
    assert [item.images[0].read() for item in benchmark.items] == [files.png(0), files.png(1)]
    shutil.rmtree(tmp_path / "sdci/annotations")
    with pytest.raises(FileNotFoundError, match="annotations: not found"):
        read("dci_retrieval", tmp_path)


def test_crossmodal3600(tmp_path):
    files.crossmodal3600(tmp_path)
    benchmark = read("crossmodal3600_th", tmp_path)
    assert benchmark.items[0].captions == ("th 0 0", "th 0 1", "th 1 0", "th 1 1")
    assert benchmark.items[1].images[0].names == ("open_images:0000000000000001",)
    assert len(read("crossmodal3600_quz", tmp_path).items[0].captions) == 2


def test_urban1k(tmp_path):
    files.urban1k(tmp_path)
    benchmark = read("urban1k", tmp_path)
    assert benchmark.items[0].captions == ("A street, 0 cars. A long caption.", "A street, 1 cars. A long caption.")
    scores = values(benchmark, [[[0.5, 0.4]], [[0.6, 0.7]]])
    assert (scores["urban1k/image_to_text@1"], scores["urban1k/text_to_image@1"]) == (1.0, 0.5)


def test_imagecode(tmp_path):
    files.imagecode(tmp_path)
    benchmark = read("imagecode", tmp_path)
    deer, _, girls = benchmark.items
    assert (deer.captions, girls.captions) == (("a deer",), ("two girls",))
    assert deer.images[0].read() == files.png(3) and girls.images[0].read() == files.png(2), "img8.jpg is the third"
    assert [image.read() for image in girls.images[1:]] == [files.png(n) for n in (0, 1, *range(3, 10))]
    right, wrong = [[0.5]] + [[0.1]] * 9, [[0.5]] * 2 + [[0.1]] * 8
    scores = values(benchmark, [wrong, right, right])
    assert scores == pytest.approx({"imagecode/accuracy": 2 / 3, "imagecode/static": 0.0, "imagecode/video": 1.0})
    file = tmp_path / "imagecode/valid_data.json"
    sets = json.loads(file.read_text())
    sets["MSR-VTT-video1"]["00"] = "a second description of image 0"
    file.write_text(json.dumps(sets))
    assert "image '00' is described; expected a number below 10" in read("imagecode", tmp_path).problems[0]
    (tmp_path / "imagecode/image-sets/MSR-VTT-video1/img4.jpg").unlink()
    assert "has 9 images img<number>.jpg, expected 10" in read("imagecode", tmp_path).problems[0]


def test_negrefcocog(tmp_path):
    files.negrefcocog(tmp_path)
    first, second = read("negrefcocog", tmp_path).items
    photo = Image.open(io.BytesIO(files.png(1)))
    reference, other = (image.box for image in first.images)
    # PIL rounds a box of fractions to whole pixels.
    for box, (x, y, w, h) in ((reference, (1.74, 0, 38.26, 40)), (other, (0, 0.4, 20, 30.2))):
        np.testing.assert_array_equal(photo.crop(box), photo.crop((x, y, x + w, y + h)))
    assert [image.box for image in second.images] == [other, reference] and second.tags["answer"] == "1"


def test_hard_positives(tmp_path):
    files.hard_positives(tmp_path)
    benchmark = read("hard_positives_replace", tmp_path)
    assert benchmark.problems == () and len(benchmark.items) == 4
    assert benchmark.items[1].captions == ("walking cat", "strolling cat", "lying cat 1")
    # Attributes: both above the false caption, then only the caption; relations: only the hard positive, twice.
    scores = values(benchmark, [[[0.5, 0.4, 0.3]], [[0.5, 0.1, 0.3]], [[0.1, 0.5, 0.3]], [[0.1, 0.5, 0.3]]])
    expected = {"original": 0.5, "augmented": 0.25, "brittleness": 0.75, "original/relations": 0.0}
    assert {name: scores[f"hard_positives_replace/{name}"] for name in expected} == pytest.approx(expected)
    swap = read("hard_positives_swap", tmp_path)
    assert (swap.items[0].images[0].box, swap.published) == ((4, 2, 44, 32), 28_748)
    path = tmp_path / "hard_positives/swapped_data/vl_checklist_relations.json"
    rows = json.loads(path.read_text())
    files.write(path, rows[::-1])
    assert "have another image or false caption" in read("hard_positives_replace", tmp_path).problems[1]
    files.write(path, rows[:1])
    with pytest.raises(UserError, match="data has 2 records and swapped_data 1"):
        read("hard_positives_replace", tmp_path)


def test_vl_checklist_counts_what_is_missing(tmp_path):
    files.vl_checklist(tmp_path)
    benchmark = read("vl_checklist", tmp_path)
    assert {item.captions for item in benchmark.items} == {("a red cat", "a black cat")}
    scores = values(benchmark, [[[1, 0]], [[0, 1]], [[1, 0]], [[0, 1]], [[0, 0]], [[1, 0]]])
    by_file = {"Attribute/vaw/color": 1.0, "Attribute/vg/color": 1 / 3}
    expected = {"vl_checklist/object": 0.5, "vl_checklist/attribute": 2 / 3}
    assert {name: scores[name] for name in expected} == pytest.approx(expected), "the mean over files"
    assert {name: scores[f"vl_checklist/file/{name}"] for name in by_file} == pytest.approx(by_file)
    assert benchmark.problems[0].startswith("53 of 56 files not found and not in the means: Object/Location/hake_")
    (tmp_path / "vl_checklist/vg/VG_100K/1.png").unlink()
    problems = read("vl_checklist", tmp_path).problems
    assert len(problems) == 3 and problems[1].startswith(
        "Attribute/vg/color.json record 0: image 'VG_100K/1.png' is not"
    )
    assert problems[1].endswith("(and 2 more of the 3 records)")
