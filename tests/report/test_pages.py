"""The report and the gallery in a browser: on a desk and a phone, in light and dark, with keys, without a network."""

import csv
import dataclasses
import json
import re

import pytest
from etils import epath

from naturel_jax import evaluate
from naturel_jax.benchmarks import order
from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.benchmarks.registry import BENCHMARKS
from naturel_jax.evaluators import results
from naturel_jax.evaluators.examples import Example
from naturel_jax.report import gallery, overview, writing
from naturel_jax.report.contents import Report, Section
from naturel_jax.report.pairs import Judged
from naturel_jax.report.tables import BLIND, MEASURED, Cell, ModelRow
from tests.helpers import benchmark_files as files
from tests.helpers.browser import DESK, MALICIOUS, PHONE
from tests.helpers.model_files import save_hf
from tfds_naturel.common.pages import data_uri

pytestmark = pytest.mark.slow

MODELS = {"CLIP": "tiny-clip", "SigLIP": "tiny-siglip"}


# ---- Report ----------------------------------------------------------------------------------------------------------


def test_report(page, tmp_path):
    further = ["cola/group", "vsr/accuracy", "mine/image_to_text@1", "zeroshot/dtd/top1"]
    relations = {f"vg_relation/relation/r{n}": Cell(n / 30, (n / 40, n / 25), n + 1) for n in range(25)}
    sugarcrepe = [f"sugarcrepe/{name}" for name in ("replace_obj", "replace_att", "swap_obj", "swap_att", "add_obj")]
    linked = Cell(0.5, (0.45, 0.55), 9, True, True, link="galleries/b.html#right=wrong%3ACLIP")
    cells = dict.fromkeys(("vg_relation/macro", "naturel/simple", *sugarcrepe, *further), linked)
    rows = [ModelRow(name, MEASURED, cells | relations) for name in ("CLIP", MALICIOUS)]
    rows.append(ModelRow("longer caption", BLIND, dict.fromkeys(cells, Cell(0.6))))
    history = {name: [[(0, {"naturel/simple": 0.5}), (9, {"naturel/simple": 0.9})]] for name in ("CLIP", MALICIOUS)}
    section = Section(MALICIOUS, ("", "score"), [[MALICIOUS, "+0.1"]], [MALICIOUS], MALICIOUS)
    words = [Section(f"Words {n}", ("", *"abcdef"), [["Code", *["f" * 40] * 6]], words=True) for n in range(2)]
    images = [data_uri(form, files.png(0, size)) for form, size in (("jpeg", (128, 85)), ("png", (64, 64)))]
    shown = [Example("b", str(n), n % 2 == 0, tuple(images), (MALICIOUS, "x" * 500), (0.5,) * 4, 1) for n in range(30)]
    losses = {name: [[(n, 5 - n / 100) for n in range(300)]] for name in ("CLIP", MALICIOUS)}
    others = {"title": MALICIOUS, "losses": losses, "examples": {MALICIOUS: shown}, "made": words}
    writing.save(epath.Path(tmp_path), Report(rows, history, [MALICIOUS], sections=[section], **others))
    assert (tmp_path / "report.html").stat().st_size < 1.5e6
    address = (tmp_path / "report.html").as_uri()
    page.check(address, " ".join(MALICIOUS.split()))
    assert page.run("document.querySelectorAll('script').length") == 0
    assert page.run("document.querySelectorAll('strong').length") == 2 * (7 + 4 + 11), "two tables, further, families"
    titles = page.run("[...document.querySelectorAll('.beside')].map(e => e.previousElementSibling.textContent)")
    families = [family.title for family in overview.COLUMN_FAMILIES]
    curves = ["Training loss", "Accuracy during training"]
    assert titles == [*curves, *families, "Forgetting against gain", "By relation: vg_relation"]
    page.run("document.querySelector('details').open = true")
    assert page.violations() == [] and page.fits()
    page.resize(*PHONE, dark=True)
    page.open(address)
    widths = page.run("[...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().width)")
    assert widths == [widths[0]] * 9 and widths[0] > 300, "plots fill the width of a phone"
    ink = "getComputedStyle(document.querySelector('svg text')).fill === getComputedStyle(document.body).color"
    assert page.run(ink), "in the colour of the page"
    page.run("document.querySelector('.cards').scrollIntoView()")
    page.until("[...document.images].slice(0, 2).every(image => image.complete)")
    seen = page.run("[...document.images].map(i => [i.alt.length > 10, i.height]).slice(0, 2)")
    assert seen == [[True, 128]] * 2 and page.run("document.images.length") == 48, "24 items"


def test_report_on_every_suite_has_all_columns_in_every_format(page, tmp_path, monkeypatch):
    """By the command, on files of each suite in its official format, but those of Crossmodal-3600's 36 languages."""
    monkeypatch.setattr(order, "spacy_tags", lambda texts: [[(word, "NN") for word in text.split()] for text in texts])
    for make in dict.fromkeys(files.MAKERS.values()):
        make(tmp_path)
    names = [name for name in BENCHMARKS if name in files.MAKERS and "crossmodal3600" not in name]
    out = tmp_path / "out"
    models = [f"{name}={save_hf(tmp_path / name, preset)}" for name, preset in MODELS.items()]
    flags = [f"--benchmarks_dir={tmp_path}", f"--out={out}", "--baseline=CLIP"]
    evaluate.main([*flags, "--models", *models, "--benchmarks", *names])
    page.check((out / "report.html").as_uri(), f"Evaluation of CLIP and SigLIP on {len(names)} benchmarks")
    families = overview.columns([metric for result in results.load(out) for metric in result.metrics])
    columns = [name for family in families.values() for name in family]
    assert len(names) > 40 and len(columns) > 80 and len(families) == 4
    page.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    for size in (DESK, PHONE):
        page.resize(*size)
        assert page.fits(), size
    heads = page.run("[...document.querySelectorAll('.beside th')].map(e => e.textContent)")
    text, tex = ((out / f"report.{suffix}").read_text() for suffix in ("md", "tex"))
    assert not re.search(r"\bnan\b", text + tex)
    for name in columns:
        assert name in heads and f"| {name} |" in text and name.replace("_", r"\_") in tex, name
    scores = {(result.model, metric) for result in results.load(out) for metric in result.scores}
    rows = csv.DictReader((out / "scores.csv").read_text().splitlines())
    assert {(row["model"], row["metric"]) for row in rows if row["kind"] == MEASURED} == scores
    found = [json.loads(path.read_text())["metrics"] for path in (out / "clip_benchmark").iterdir()]
    assert sum(map(len, found)) == len(scores)


# ---- Gallery ---------------------------------------------------------------------------------------------------------


NOUNS = (("cow", "grass"), ("grass", "cow"))


def spatial_pairs(number: int, images: int = 40) -> list[Judged]:
    """Items like VG-Relation's, over some images; the first has a malicious caption, the image of the last is gone."""
    relations, pairs = ("to the left of", "to the right of", "on", "under"), []
    for n in range(number):
        relation, nouns = relations[n // images % 4], NOUNS[n % 7 == 0]
        captions = tuple(f"the {a} is {relation} the {b} number {n}" for a, b in (nouns, nouns[::-1]))
        box = (4 + n // images % 3, 4, 40, 30) if n % 3 else None
        a, b = n % 5 == 0, n % 2 == 0
        cosines = (0.3, 0.2 if a else 0.31), (0.9 if n == 24_998 else 0.25, 0.1 if b else 0.4)
        pairs.append(Judged(str(n), (f"p{n % images}",), (box,), captions, ((a, b),), cosines, relation, str(n)))
    pairs[0] = dataclasses.replace(pairs[0], captions=(MALICIOUS, "b"))
    pairs[-1] = dataclasses.replace(pairs[-1], images=("gone",), captions=("uniquely worded", "b"))
    return pairs


@pytest.fixture(scope="module")
def galleries(tmp_path_factory) -> dict[str, str]:
    """Addresses: of 25,000 items of 40 images, of 30 of 6, of 25,000 of one each, and of pairs of small images."""
    folder, names = tmp_path_factory.mktemp("galleries"), (("CLIP & A", "<b>NegCLIP"), "vg_relation")
    images = {f"p{n}": Image(f"p{n}", lambda n=n: files.png(n, (200, 150))) for n in range(40)}
    gallery.write(folder / "large.html", *names, spatial_pairs(25_000), images)
    gallery.write(folder / "medium.html", *names, spatial_pairs(30, 6), images)
    gallery.write(folder / "many.html", *names, spatial_pairs(25_000, 25_000), {})
    two = {"boxes": (None, None), "cosines": ((0.1,) * 4, (0.2,) * 4), "captions": ("a cat", "a dog")}
    pairs = [dataclasses.replace(p, images=(f"{p.id}a", f"{p.id}b"), **two) for p in spatial_pairs(6)[1:5]]
    images = {f"{n}{k}": Image(k, lambda n=n: files.png(n, (64, 64))) for n in range(1, 5) for k in "ab"}
    gallery.write(folder / "pixels.html", "AB", "winoground", pairs, images)
    models = ("CLIP", "NegCLIP", MALICIOUS)
    right = [((n % 2 == 0, n % 3 == 0, True), () if n == 4 else (False, n == 1, True)) for n in range(1, 5)]
    pairs = [dataclasses.replace(p, right=of, cosines=((0.123,) * 4,) * 3) for p, of in zip(pairs, right, strict=True)]
    gallery.write(folder / "three.html", models, "winoground", pairs, images, ["text", "image"])
    return {path.stem: path.as_uri() for path in folder.glob("*.html")}


SHOWN = "[document.getElementById('shown').textContent, document.querySelectorAll('article').length]"
FOCUSED = "document.activeElement.closest('article')?.dataset.id"
CHOOSE = """(([id, start], select = document.getElementById(id)) => {
  select.value = [...select.options].find(option => option.text.startsWith(start)).value;
  select.dispatchEvent(new Event("change"));
})(%s)"""


def items(number: int) -> str:
    return f"{number:,} of 25,000 items"


def test_gallery_has_one_card_an_image(page, galleries):
    page.check(galleries["medium"], "CLIP & A / <b>NegCLIP on vg_relation")
    assert page.run(SHOWN) == ["30 of 30 items", 7]
    assert page.run("document.querySelector('tbody td').textContent") == MALICIOUS
    assert page.run("document.querySelectorAll('article:first-child tbody').length") == 5
    alts = page.run("[...document.images].map(image => image.alt)")
    assert len(alts) == 6 and alts[1] == "Image of item 1: the cow is to the left of the grass number 1"
    boxes = "document.querySelectorAll('article')[1].querySelectorAll('.frame i').length"
    assert page.run(boxes) == 3, "of five items, one has no box and two have the same"
    missing = "[...document.querySelectorAll('.missing')].map(element => element.textContent)"
    assert page.run(missing) == ["Image of item 29 cannot be read"]


def test_gallery_filters_search_order_and_links(page, galleries):
    page.resize(*DESK)
    page.open(galleries["large"])
    page.click("[data-verdict=a]")
    only_a = [n for n in range(25_000) if n % 5 == 0 and n % 2]
    assert page.run(SHOWN)[0] == items(len(only_a))
    rows = "document.querySelectorAll('article:first-child tbody').length"
    assert page.run(rows) == 12 and "613 more items" in page.run("document.querySelector('.rest').textContent")
    page.click(".rest")
    assert page.run(rows) == 625, "all items of the image"
    page.run(CHOOSE % json.dumps(["group", "to the left of"]))
    left = [n for n in only_a if n // 40 % 4 == 0]
    assert page.run(SHOWN)[0] == items(len(left))
    link = page.run("location.href")
    assert link.endswith("#right=a&group=to+the+left+of")
    page.open(galleries["large"])
    assert page.run(SHOWN)[0] == items(25_000)
    page.open(link)
    assert page.run(SHOWN)[0] == items(len(left))
    for fragment, number in {"search=NUMBER+24998+": 1, "search=nothing+at+all": 0, "order=b": 25_000}.items():
        page.run(f"location.hash = '{fragment}'")
        page.until(f"{SHOWN}[0] === '{items(number)}'")
        assert page.run("document.getElementById('none').hidden") == (number > 0)
    assert page.run("document.querySelector('article').dataset.id") == "24998"


def test_gallery_of_many_images_draws_the_first_and_more_as_they_are_reached(page, galleries):
    page.resize(*DESK)
    page.open(galleries["many"])
    assert page.run(SHOWN) == [items(25_000), 60]
    page.run("scrollTo(0, document.body.scrollHeight)")
    page.until(f"{SHOWN}[1] === 120")


def test_gallery_of_several_models_opens_on_what_one_gets_wrong(page, galleries):
    page.check(galleries["three"], f"CLIP / NegCLIP / {MALICIOUS} on winoground")
    for fragment, shown in {
        "right=wrong%3ACLIP": ["2 of 4 items", "1,3"],
        "right=right%3ANegCLIP&group=to+the+left+of": ["1 of 4 items", "3"],
        "outcome=image&right=wrong%3ANegCLIP": ["2 of 3 items", "2,3"],
    }.items():
        page.open("about:blank")
        page.open(f"{galleries['three']}#{fragment}")
        ids = page.run("[...document.querySelectorAll('article')].map(card => card.dataset.id).join()")
        assert [page.run(SHOWN)[0], ids] == shown, fragment
    page.click('[data-verdict="right:NegCLIP"]')
    assert page.run(SHOWN)[0] == "1 of 3 items"
    assert page.run("location.hash").startswith("#outcome=image&right=right%3A")


def test_gallery_is_used_with_keys(page, galleries):
    page.resize(*DESK)
    page.open(galleries["medium"])
    page.press("3")
    assert page.run(SHOWN)[0] == f"{sum(n % 5 > 0 and n % 2 == 0 for n in range(30))} of 30 items"
    page.press("1")
    for key in "jjk":
        page.press(key)
    assert page.run(FOCUSED) == "0"
    page.press("j")
    page.press("Enter")
    zoomed = "[document.getElementById('zoom').open, document.getElementById('zoomtext').textContent.slice(0, 51)]"
    assert page.run(zoomed) == [True, "the cow is to the left of the grass number 1 / the "]
    assert page.violations() == []
    page.press("ArrowRight")
    assert page.run(zoomed) == [True, "the cow is to the left of the grass number 2 / the "]
    page.press("Escape")
    page.until(f"{FOCUSED} === '2'")
    assert page.run(zoomed)[0] is False
    page.press("/")
    for letter in "number 28":
        page.press(letter)
    assert page.run(SHOWN) == ["1 of 30 items", 1] and page.run("location.hash") == "#search=number+28"


def test_gallery_on_a_phone(page, galleries):
    page.resize(*PHONE)
    page.open(galleries["medium"])
    assert page.run("document.querySelector('header').getBoundingClientRect().height") < 120
    assert page.run("getComputedStyle(document.getElementById('filters')).display") == "none"
    page.click("#toggle")
    assert page.run("document.getElementById('toggle').getAttribute('aria-expanded')") == "true"
    assert page.violations() == [] and page.fits()


def test_pixel_art_is_enlarged_by_whole_factors_without_smoothing(page, galleries):
    page.check(galleries["pixels"], "A / B on winoground")
    style = "(style => [style.imageRendering, style.width])(getComputedStyle(document.querySelector('%s')))"
    assert page.run(style % ".frame img") == ["pixelated", "128px"], "two images of 64 pixels in a card"
    alts = page.run("[...document.querySelectorAll('article:first-child img')].map(image => image.alt)")
    assert alts == ["Image 1 of item 1: a cat", "Image 2 of item 1: a dog"]
    page.click(".frame")
    assert page.run(style % "#zoom img") == ["pixelated", "576px"], "9 times: the height is 0.65 of 900 pixels"
