"""The statement on images that may have been trained on."""

import re
from types import SimpleNamespace

import pytest
from etils import epath

from naturel_jax.benchmarks.benchmark import Origin, Overlap, Source
from naturel_jax.benchmarks.registry import BENCHMARKS
from naturel_jax.data.seen import identity
from naturel_jax.evaluators.results import Result
from naturel_jax.report import leakage, writing
from naturel_jax.report.contents import Report

COLLECTIONS = ("COCO", "Visual Genome", "Open Images", "Flickr30k")


def result(model: str, benchmark: str, left_out: int = 0, found: dict[str, int] | None = None) -> Result:
    return Result(model, benchmark, "f", 100 - left_out, None, 0, (), {}, {}, left_out=left_out, found=found)


FOUND = {"images": 5000, "read": 4000, "name": 3, "bytes": 2, "look": 5}
RESULTS = [
    result("CLIP", "vg_relation", found={}),
    result("A|<b>&", "vg_relation", 6, FOUND),
    result("run", "vg_relation"),
    result("CLIP", "my", found={}),
]


def test_every_benchmark_has_an_origin_with_a_source():
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.SOURCE.origins or name.startswith("zeroshot"), name
        for origin in benchmark.SOURCE.origins:
            assert origin.source.startswith("https://")
            shared = origin.images.startswith(COLLECTIONS) or " of Visual Genome" in origin.images
            assert bool(origin.overlaps) == (shared or name == "winoground"), f"{name}: {origin.images}"


def test_new_benchmark_brings_its_origin(monkeypatch):
    origin = Origin("COCO (a part)", "https://example.com/new", (Overlap("COCO", "all of it"),))
    source = Source("MIT", "here", "new.json", origins=(origin,))
    monkeypatch.setitem(BENCHMARKS, "new", SimpleNamespace(SOURCE=source, read=None))
    (section,) = leakage.sections([result("CLIP", "new", found={})])
    assert section.rows[0][1:3] == ((("COCO (a part)", "https://example.com/new"),), (("COCO: all of it", ""),))


@pytest.mark.parametrize(("name", "path"), [("vg_relation", "VG_100K/2331508.jpg"), ("sugarcrepe", "000000000139.jpg")])
def test_collections_are_those_that_names_are_recognized_of(name, path):
    collection = BENCHMARKS[name].SOURCE.origins[0].images.split(" (")[0]
    assert identity.of_name(path).startswith(collection.lower().replace(" ", "_") + ":")


def test_numbers_add_up():
    """COCO 2014 has 82,783 and 40,504 images, 2017 has 118,287 and 5,000 of these; the Karpathy splits are 113,287 for
    training and 5,000 each for validation and test, both of val2014."""
    (origin,) = BENCHMARKS["sugarcrepe"].SOURCE.origins
    known = {overlap.training: overlap.known for overlap in origin.overlaps}
    restval, val2014 = map(int, re.findall(r"[\d]+", known["COCO (Karpathy train)"].replace(",", ""))[:2])
    assert (restval, val2014) == (113_287 - 82_783, 40_504) and restval == val2014 - 2 * 5_000
    assert 82_783 + val2014 - 5_000 == 118_287


def test_statement_in_every_format(tmp_path):
    writing.save(epath.Path(tmp_path), Report([], trained_on=leakage.sections(RESULTS)))
    text, page = ((tmp_path / f"report.{form}").read_text() for form in ("md", "html"))
    assert "| vg_relation | Visual Genome ([source](https://arxiv.org/abs/2210.01936)) |" in text
    assert "51,208 of the 108,077 images of Visual Genome are COCO's" in text and "A\\|\\<b\\>\\&" in text
    found = "6 of 100 items (3 by name, 2 by bytes, 5 by look; 4,000 of 5,000 training images read)"
    assert f": {found}; run: not counted; evaluate again |" in text
    assert "| my | not stated |  | CLIP: no record |" in text
    assert "<div>Visual Genome<small>arxiv.org/abs/2210.01936</small></div>" in page and page.count("<tr>") == 3
    assert f"A|&lt;b&gt;&amp;: {found}</div>" in page and not re.search("<b>|http[^-]", page)
    assert leakage.sections([]) == []


def test_benchmarks_without_any_are_one_sentence():
    none = {"images": 5000, "read": 5000, "name": 0, "bytes": 0, "look": 0}
    clear = [result(model, name, found=none) for name in ("naturel", "winoground") for model in ("A", "B")]
    sentence = "No image of naturel, winoground was found among those that the models were trained on; all were read."
    (section,) = leakage.sections(clear)
    assert section.text == [sentence] and not section.rows
    (section,) = leakage.sections([*clear, result("A", "sugarcrepe", found=none | {"read": 4999})])
    assert section.text == [sentence, leakage.NOTE]
    assert [row[0] for row in section.rows] == ["sugarcrepe"], "one image was not read"
