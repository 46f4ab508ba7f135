"""Comparisons and the gallery, against expectations written by hand. ``test_pages`` opens it in a browser."""

import base64
import dataclasses
import functools
import io
import itertools
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import Benchmark, Image
from naturel_jax.evaluators import scoring
from naturel_jax.report import compare, gallery
from naturel_jax.report.pairs import Judged, judge
from tests.helpers import benchmark_files as files
from tests.helpers.pages import embedded
from tfds_naturel.common.errors import UserError


def pair(n: int, a: bool, b: bool, group="on", caption="the cat is on the box", photo="") -> Judged:
    images, cosines = (photo or f"photo {n}",), ((0.3, 0.2), (0.3, 0.2))
    return Judged(str(n), images, (None,), (caption, "no"), ((a, b),), cosines, group, str(n))


def test_mcnemar_by_hand():
    pairs = [pair(n, n < 8, n < 2 or 10 <= n < 11) for n in range(16)]  # both 2, only A 6, only B 1, neither 7
    table = compare.count(pairs)
    assert (table.both, table.only_a, table.only_b, table.neither) == (2, 6, 1, 7)
    assert table.p == pytest.approx(2 * (1 + 7) / 2**7)
    assert table.difference[0] == pytest.approx(3 / 16 - 8 / 16)
    half = 1.96 * math.sqrt(7 - 25 / 16) / 16  # Agresti 2013, equation 11.2
    assert table.difference[2] - table.difference[0] == pytest.approx(half)
    assert table.odds_ratio == pytest.approx(1 / 6) and table.g == pytest.approx(1 / 7 - 0.5)
    same = compare.count([pair(0, True, True)])
    assert (same.p, same.g) == (1, 0) and math.isnan(same.odds_ratio)


def test_p_of_many_items_is_nearly_the_exact_one(monkeypatch):
    pairs = [pair(n, n < 700, 700 <= n < 1500, photo=str(n if n % 3 else n + 1)) for n in range(2000)]
    exact = compare.count(pairs)
    assert exact.exact and "exact McNemar p" in compare.markdown(*"abc", pairs)
    assert set(np.abs(exact.gains)) == {0, 1, 2}
    monkeypatch.setattr(compare, "_MOST_GAINS", 100)
    assert compare.count(pairs).p == pytest.approx(exact.p, rel=0.02) and 0.001 < exact.p < 0.1
    assert "; McNemar p = " in compare.markdown(*"abc", pairs)


def test_items_of_a_photo_change_sides_together():
    """All signs are tried. With four items a photo, a test of items finds differences between equal models."""
    gains, sizes = (3, -1, 1, 1, 0, -2), (4, 1, 2, 3, 2, 2)
    outcomes = [
        (photo, n < gain, n < -gain) for photo, gain in enumerate(gains) for n in range(sizes[photo])
    ]  # whether only B, or only A, is right
    table = compare.count([pair(n, a, b, photo=str(photo)) for n, (photo, b, a) in enumerate(outcomes)])
    sums = [np.dot(gains, signs) for signs in itertools.product((1, -1), repeat=len(gains))]
    assert table.p == pytest.approx(np.mean(np.abs(sums) >= abs(sum(gains))))
    draw, found, covered = np.random.default_rng(0), 0, 0
    for _ in range(300):
        both = [[0.5 + draw.uniform(-0.5, 0.5) > draw.uniform(size=4) for _ in "AB"] for _ in range(60)]
        rows = [(photo, *ab) for photo, sides in enumerate(both) for ab in zip(*sides, strict=True)]
        one = compare.count([pair(n, a, b, photo=str(photo)) for n, (photo, a, b) in enumerate(rows)])
        _, low, high = one.difference
        found, covered = found + (one.p < 0.05), covered + (low <= 0 <= high)
    assert found <= 25 and covered >= 275


def test_groups_are_holm_corrected():
    pairs = [pair(n, True, False, "x") for n in range(7)] + [pair(n, True, False, "y") for n in range(5)]
    pairs += [pair(0, True, True, "z")]
    result = compare.count_by_group(pairs)
    raw = {"x": 2 / 2**7, "y": 2 / 2**5, "z": 1}
    assert list(result) == ["x", "y", "z"]
    assert [p for _, p in result.values()] == pytest.approx([3 * raw["x"], 2 * raw["y"], 1])


def test_judge_joins_the_results_of_models():
    row = {"images": ["p"], "boxes": [[1, 2, 3, 4]], "captions": ["a", "b"], "cosines": [0.1, 0.2]}
    row |= {"tags": {"relation": "on"}, "captions_hash": None}
    rows_a = [row | {"id": i, "outcome/right": right} for i, right in (("0", 1.0), ("1", 0.0), ("2", None), ("3", 1.0))]
    rows_b = [row | {"id": i, "outcome/right": right} for i, right in (("1", 1.0), ("0", 1.0), ("2", 1.0))]
    result = judge([rows_a, rows_b], ["right"])
    assert [(p.id, p.a, p.b, p.group, p.boxes) for p in result] == [
        ("0", True, True, "on", ((1, 2, 3, 4),)),
        ("1", False, True, "on", ((1, 2, 3, 4),)),
    ]
    with pytest.raises(ValueError, match=r"'text' is not an outcome .* right"):
        judge([rows_a, rows_b], ["text"])
    with pytest.raises(ValueError, match=r"item '1' has the captions \['a', 'b'\] .* \['b', 'a'\] .* the same files"):
        judge([rows_a, [rows_b[0] | {"captions": ["b", "a"]}]], ["right"])


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("images", {"images": ["data/q"]}),
        ("boxes", {"boxes": [[1, 2, 3, 4]]}),
        ("label", {"tags": {"label": "1"}}),
        ("number of true captions", {"tags": {"label": "0", "number of true captions": "2"}}),
        ("hash of captions", {"captions_hash": 2}),
    ],
)
def test_judge_refuses_other_items_of_the_same_id(part, other):
    row = {"id": "1", "images": ["data/p"], "boxes": [None], "captions": None, "captions_hash": 1, "cosines": None}
    row |= {"tags": {"label": "0"}, "outcome/right": 1.0}
    same = row | {"images": ["elsewhere/p"]}  # moved
    assert len(judge([[row], [same]], ["right"])) == 1
    with pytest.raises(UserError, match=f"item '1' has the {part} .* in those of another: evaluate all again"):
        judge([[row], [row | other]], ["right"])


def test_comparison_lists_what_each_model_alone_gets_right():
    pairs = [
        pair(0, True, False, "left_of", "the cow is to the left of the grass"),
        pair(1, False, True, "right_of", "the pasture is to the right of the dog"),
    ]
    text = compare.markdown("NegCLIP", "NegCLIP-AP", "vg_relation", pairs)
    first, second = text.split("## Captions that NegCLIP-AP gets right")
    assert "- the cow is to the left of the grass" in first and "- the pasture is to the right of the dog" in second
    assert "| left_of | 1 | 1.00 | 0.00 | 1 | 0 | -0.50 | 1 |" in text.replace("\\", "")
    assert "Left out" not in text


def test_comparison_says_how_many_items_only_one_side_has(tmp_path):
    files.write(tmp_path / "i.png", files.png(1))
    files.write(tmp_path / "my.jsonl", b'{"image": "i.png", "caption": "a", "negative": "b"}\n' * 3)
    name = f"pairs:{tmp_path / 'my.jsonl'}"
    (benchmark,) = registry.read([name])
    scoring.save(tmp_path, "A", benchmark, "f", (benchmark.items[:1], [np.array([[1, 0]])], []), {"a": 1.0, "b": 1.0})
    text = compared(tmp_path, benchmark, {"B": [[[1, 0]]] * 3}, "A", "--benchmark", name)
    assert "1 items: both right 1" in text and "Left out: 2 items that only B was scored on." in text


def compared(out: Path, benchmark: Benchmark, cosines: dict[str, list], *arguments: str) -> str:
    """What the command prints about two models with these cosines."""
    norms = {caption: 1.0 for item in benchmark.items for caption in item.captions}
    for model, of_items in cosines.items():
        scoring.save(out, model, benchmark, "f", (benchmark.items, [np.array(one) for one in of_items], []), norms)
    compare.main([*cosines, "--out", str(out), "--benchmarks_dir", str(out), *arguments])
    (text,) = (out / "compare").glob("*.md")
    return text.read_text().replace("\\", "")


def test_photos_that_share_an_outcome_count_once(tmp_path):
    """Two sets of four photos, of which A gets none: 2 / 2^2, not 2 / 2^8."""
    files.whatsup(tmp_path)
    (benchmark,) = registry.read(["whatsup"], files=tmp_path)
    cosines = {"A": [[range(len(i.captions))] for i in benchmark.items]}
    cosines["B"] = [[[-x for x in row] for row in one] for one in cosines["A"]]
    text = compared(tmp_path, benchmark, cosines, "--benchmark", "whatsup", "--outcome", "set")
    assert "2 items: both right 0, only A 0, only B 2, neither 0." in text and "exact McNemar p = 0.5;" in text
    assert "such as photos of one set, count once: 8 in all" in text
    assert "| left_of | 2 | 0.00 | 1.00 | 0 | 2 |" in text


def test_shares_are_compared_as_scores(tmp_path):
    """A has half of every item, B all of 40 items and nothing of 60: it is worse, but wholly right more often."""
    files.write(tmp_path / "i.png", files.png(1))
    row = '{"image": "i.png", "caption": "a", "negatives": ["b", "c"]}\n'
    files.write(tmp_path / "my.jsonl", row.encode() * 100)
    name = f"pairs:{tmp_path / 'my.jsonl'}"
    (benchmark,) = registry.read([name])
    half, whole, none = [[2, 1, 3]], [[3, 1, 2]], [[1, 2, 3]]
    cosines = {"A": [half] * 100, "B": [whole] * 40 + [none] * 60}
    text = compared(tmp_path, benchmark, cosines, "--benchmark", name, "--outcome", "in_order")
    assert "# B against A on my" in text and "| my/pairs | 0.500 | 0.400 | -0.100 |" in text and "McNemar" not in text
    scores, first, second = text.split("## Captions that")
    assert "wholly right" in scores and "- a" not in first and "- a" in second


def test_comparison_escapes_names_and_captions():
    pairs = [pair(0, True, False, "on|under", "<script>alert(1)</script>\n# [a](b)")]
    text = compare.markdown("A|*x*", "<b>", "vg_relation", pairs)
    assert "- \\<script\\>alert(1)\\</script\\> # \\[a\\](b)\n" in text
    assert "A\\|\\*x\\*" in text and "\\<b\\>" in text and "on\\|under" in text
    assert "A|*x*" not in text and "| <b>" not in text


def write_gallery(folder: Path, number: int) -> tuple[Path, dict]:
    """A gallery of ``number`` items of one image each, the last of which is not available; its path and its data."""
    pairs = [dataclasses.replace(pair(n, True, False), images=(f"p{n}",)) for n in range(number)]
    sizes = {n: (64, 48) if n else (900, 600) for n in range(number - 1)}
    images = {f"p{n}": Image(f"p{n}", functools.partial(files.png, n, size)) for n, size in sizes.items()}
    page = folder / "compare.html"
    gallery.write(page, ("CLIP & A", "<b>NegCLIP"), "vg_relation", pairs, images)
    return page, embedded(page, "data")


def test_small_gallery_is_one_file(tmp_path):
    page, data = write_gallery(tmp_path, 4)
    assert list(tmp_path.iterdir()) == [page]
    large, small, _, missing = data["thumbnails"]
    assert large[0].startswith("data:image/jpeg;base64,") and large[1:] == [900, 600] and missing is None
    assert small[0].startswith("data:image/png;base64,"), "pixels of a small image are kept"
    with PIL.Image.open(io.BytesIO(base64.b64decode(small[0].split(",")[1]))) as image:
        assert (image.size, image.format) == ((64, 48), "PNG")
        assert np.array_equal(image, PIL.Image.open(io.BytesIO(files.png(1, (64, 48)))))


def test_large_gallery_has_its_images_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "EMBEDDED", 3)
    page, data = write_gallery(tmp_path, 4)
    assert [path.name for path in tmp_path.iterdir()].count("compare_images") == 1
    with PIL.Image.open(page.parent / data["thumbnails"][0][0]) as image:
        assert (image.size, image.format) == ((640, 427), "JPEG")
    assert len(list((tmp_path / "compare_images").iterdir())) == 3


def test_gallery_replaces_a_link(tmp_path):
    (tmp_path / "other").write_text("kept")
    (tmp_path / "page.html").symlink_to(tmp_path / "other")
    gallery.write(tmp_path / "page.html", ("a", "b"), "bench", [], {})
    assert (tmp_path / "other").read_text() == "kept" and "bench" in (tmp_path / "page.html").read_text()
