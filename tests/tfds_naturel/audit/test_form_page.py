"""The pages of annotators and readers, in a browser: photos and boxes, touch and keys, whose decisions are whose."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import benchmark_files as files
from tests.helpers.browser import DESK, MALICIOUS, PHONE, Page
from tests.helpers.open_images_files import build_dataset, photo, row, write_photos, write_release
from tfds_naturel.audit import __main__ as audit
from tfds_naturel.audit import readers, review
from tfds_naturel.audit.attack import Pair
from tfds_naturel.captions import bank, decisions, grammar
from tfds_naturel.common.pages import data_uri
from tfds_naturel.common.schema import Triplet
from tfds_naturel.open_images.annotations import Box

pytestmark = pytest.mark.slow


CAT = Triplet("Cat", "on", "Desk")


@pytest.fixture(scope="module")
def small() -> bank.Bank:
    triplets = [CAT, Triplet("Man", "holds", "Mug"), Triplet("Table", "is", "Wooden"), Triplet("Dog", "under", "Chair")]
    return {triplet: grammar.write(triplet, np.random.default_rng(n)) for n, triplet in enumerate(triplets)}


@pytest.fixture(scope="module")
def forms(small, tmp_path_factory) -> dict[str, str]:
    """Addresses: of the review page, of one that is shared by Anna and Ben, and of questions to readers."""
    folder = tmp_path_factory.mktemp("forms")
    boxes = Box(0.1, 0.5, 0.2, 0.6), Box(0.3, 0.9, 0.4, 1)
    photos = [data_uri("png", files.png(0, size)) for size in ((400, 300), (225, 400))]
    shown = {CAT: [review.Shown("0", photo, *boxes) for photo in photos]}
    captions = list(small[CAT])
    captions[6] = dataclasses.replace(captions[6], text=MALICIOUS)
    screens = review.screens(small | {CAT: tuple(captions)})
    (folder / "review.html").write_text(review.page(screens, shown), "utf-8")
    people = {"Anna": [0, 3], "Ben": [0, 1], MALICIOUS: [0]}
    (folder / "shared.html").write_text(review.page(screens, shown, people), "utf-8")
    pairs = [Pair(f"true {n}", f"false {n}", str(CAT), "on", "swap", "yes") for n in range(9)]
    readers.write(folder, readers.sample(pairs, [MALICIOUS], 4, 2, seed=0))
    return {path.stem: path.as_uri() for path in folder.glob("*.html")}


TEXTS = "[...document.querySelectorAll('.text')].map(element => element.textContent)"
PRESSED = "[...document.querySelectorAll('.buttons [aria-pressed=true]')].map(button => button.textContent)"
COUNT = "document.getElementById('count').textContent"
CORNERS = """[...document.querySelectorAll('.box')].map(box => {  // of each box, as shares of its photo
  const inner = box.getBoundingClientRect(), photo = box.parentElement.querySelector('img').getBoundingClientRect();
  const across = ["left", "right"].map(side => (inner[side] - photo.left) / photo.width);
  return [...across, ...["top", "bottom"].map(side => (inner[side] - photo.top) / photo.height)];
})"""
MESSAGE = "document.getElementById('message').textContent"


def write(page: Page, text: str) -> None:
    for letter in text:
        page.press(letter)


def fresh(page: Page, address: str, name: str, size: tuple[int, int] = DESK) -> None:
    """Opens the page as somebody in whose browser nobody has answered anything."""
    page.resize(*size)
    page.open(address)
    page.run("localStorage.clear()")
    page.open(address)
    enter(page, name)


def enter(page: Page, name: str) -> None:
    page.click("#name")
    write(page, name)
    page.press("Enter")


def test_review_page_shows_pair_photos_and_guidelines(page, small, forms):
    page.check(forms["review"], "NatuRel captions: review")
    assert page.run("document.querySelectorAll('#rules li').length") >= 4, "before a name is entered"
    for size in (PHONE, DESK):
        fresh(page, forms["review"], "Ada", size)
        assert page.violations() == [] and page.fits(), size
        corners = [[0.1, 0.5, 0.2, 0.6], [0.3, 0.9, 0.4, 1]] * 2
        np.testing.assert_allclose(page.run(CORNERS), corners, rtol=0, atol=0.01, err_msg=str(size))
    assert page.run(TEXTS) == [caption.text for caption in small[CAT][:2]]
    asks = page.run("[...document.querySelectorAll('.ask')].map(element => element.textContent.split('.')[0])")
    assert asks == ["Meant to be true", "Meant to be false"]
    assert page.run("document.getElementById('guidelines').getBoundingClientRect().bottom") < 900, "beside the captions"
    images = page.run("[...document.querySelectorAll('figure img')].map(image => [image.alt, image.naturalWidth])")
    assert images == [["Photo of Cat on Desk", 400], ["Photo of Cat on Desk", 225]]
    assert page.run("[...document.querySelectorAll('.box')].map(box => box.textContent)") == ["Cat", "Desk"] * 2
    for _ in range(3):
        page.click("#after")
    assert page.run(TEXTS)[0] == MALICIOUS and page.run("document.title") == "NatuRel captions: review"


def test_review_by_touch(page, small, forms, tmp_path):
    """Both captions are judged on a phone; the exported file is what the builder and the audit read."""
    fresh(page, forms["review"], "Ada", (390, 640))
    page.press("k")
    buttons = "document.querySelectorAll('.buttons')[1].getBoundingClientRect().bottom"
    assert page.run(f"document.querySelector('nav').getBoundingClientRect().top - {buttons}") > 0, "nothing covers them"
    right = "Math.max(...[...document.images].map(image => image.getBoundingClientRect().right))"
    assert page.run(right) <= 390, "both photos are in sight"
    page.press("u")
    page.resize(*PHONE)
    page.click(".question:nth-child(1) .accept")
    assert page.run(PRESSED) == ["Keep"]
    page.click(".question:nth-child(2) .reject")
    assert page.run(PRESSED) == ["Keep", "Reject"] and page.violations() == [] and page.fits()
    write(page, 'says "on", twice')
    page.press("Enter")
    assert page.run(TEXTS)[0] == small[CAT][2].text
    assert page.run(COUNT) == "2 of 32 answered; screen 2 of 16"
    page.click(".question:nth-child(1) .unclear")
    page.click("#undo")
    assert page.run(PRESSED) == []
    page.click(".question:nth-child(1) .accept")
    page.click(".question:nth-child(1) .accept")
    assert page.run(COUNT) == "2 of 32 answered; screen 2 of 16", "a second touch takes it back"
    written = page.run("csv()")
    rows = list(csv.DictReader(io.StringIO(written)))
    said = [(row["decision"], row["reason"], row["annotator"]) for row in rows]
    assert said == [("accept", "", "Ada"), ("reject", 'says "on", twice', "Ada")]
    (tmp_path / "decisions.csv").write_text(written, encoding="utf-8")
    assert decisions.rejected([tmp_path / "decisions.csv"]) == {(CAT, small[CAT][1].text)}


def test_review_with_keys_and_again(page, small, forms):
    fresh(page, forms["review"], "Ada")
    for key in ("k", "k", "r"):
        page.press(key)
    assert page.run("document.activeElement.className") == "reason"
    page.press("Enter")
    page.press("k")
    assert page.run(COUNT) == "4 of 32 answered; screen 3 of 16"
    page.press("u")
    page.press("u")
    assert page.run(COUNT) == "2 of 32 answered; screen 2 of 16" and page.run(PRESSED) == []
    for key in ("n", "Escape", "ArrowDown", "k", "ArrowRight", "k"):
        page.press(key)
    page.open(forms["review"])
    assert page.run("document.querySelector('#people').innerText") == "Ada: 5 answered"
    page.click("#people button")
    assert page.run(COUNT) == "5 of 32 answered; screen 3 of 16", "where Ada left off"
    page.press("k")
    page.open(forms["review"])
    page.click("#people button")
    marked = "[...document.querySelectorAll('.question')].map(question => question.getAttribute('aria-current'))"
    assert page.run(marked) == ["false", "true"], "keys are for the caption that is left"
    written = page.run("csv()")
    page.run("localStorage.clear()")
    page.open(forms["review"])
    enter(page, "Ada")
    page.run(f"restore({json.dumps(written)})")
    assert page.run("csv()") == written
    page.press("u")
    assert page.run(COUNT).startswith("0 of 32"), "a file is one step"
    page.run(f"restore({json.dumps(written)})")
    for field, value, screens in (("", "unclear", 1), ("", "none", 14), ("relation", "is", 4)):
        select = f"document.querySelector('[data-field=\"{field}\"]')"
        page.run(f"(s => {{ s.value = '{value}'; filter(); s.value = '' }})({select})")
        assert page.run("screens.length") == screens, value


def test_two_people_at_one_browser_do_not_share_decisions(page, forms):
    fresh(page, forms["review"], "Ada")
    page.press("k")
    page.click("#change")
    enter(page, "  Bea ")
    assert page.run(COUNT) == "0 of 32 answered; screen 1 of 16" and page.run(PRESSED) == []
    page.press("u")
    page.press("ArrowDown")
    page.press("k")
    page.click("#change")
    people = page.run("document.querySelector('#people').innerText.split(/\\s*\\n\\s*/)")
    assert people == ["Ada: 1 answered", "Bea: 1 answered"]
    page.click("#people button")
    assert page.run("csv().split('\\r\\n').length") == 3 and '"Ada"' in page.run("csv()")


def test_files_of_others_are_refused_by_row(page, small, forms):
    fresh(page, forms["review"], "Ada")
    row = f"{CAT},{small[CAT][0].text}"
    for text, message in {
        f"triplet;text;decision\n{row.replace(',', ';')};accept\n": "decision, each once, with commas between them",
        f"triplet,text,decision\n{row},accept,reject\n": "Row 2 has 4 cells; the first has 3",
        f"triplet,text,decision\r{row},\r": "Nothing was loaded. The file has no answer.",
        f"triplet,text,decision,decision\n{row},accept,reject\n": "triplet, text, decision, each once",
        f"triplet,text,decision\n{row},accept\n{row},maybe\n": 'Nothing was loaded. Row 3: decision "maybe"; exp',
        f"triplet,text,decision,annotator\n{row},accept,Bea\n": "Row 2: it is by Bea, and you are Ada",
        f"triplet,text,decision,reason\n{row},reject,{'x' * 1001}\n": "Row 2: its reason has more than 1000 characters",
    }.items():
        page.run(f"restore({json.dumps(text)})")
        assert message in page.run(MESSAGE) and page.run("given.size") == 0
    text = f"triplet,text,decision\n{row},accept\nA|on|B,{MALICIOUS[:20]},accept"
    page.run(f"restore({json.dumps(text)})")
    assert "1 rows are not about this page" in page.run(MESSAGE) and page.run("given.size") == 1
    page.run("load({ target: { files: [{ name: 'big.csv', size: 2e7 }] } })")
    assert page.run(MESSAGE) == "big.csv has 20000000 bytes; expected at most 16000000"


def test_shared_page_gives_each_person_their_screens(page, forms):
    page.resize(*PHONE)
    page.open(forms["shared"])
    page.run("localStorage.clear()")
    page.check(forms["shared"], "NatuRel captions: review")
    people = page.run("[...document.querySelectorAll('#people button')].map(button => button.textContent)")
    assert people == [f"{name}: none answered" for name in ("Anna", "Ben", MALICIOUS)]
    assert page.run("getComputedStyle(document.getElementById('start')).display") == "none"
    page.click("#people button:nth-child(2)")
    assert page.run(COUNT) == "0 of 4 answered; screen 1 of 2"
    for key in "kkkk":
        page.press(key)
    assert page.run(COUNT) == "4 of 4 answered; screen 2 of 2. All done: export, and send the file."


def test_questions_to_readers(page, forms, tmp_path):
    page.check(forms["questions"], "NatuRel captions: questions to readers")
    fresh(page, forms["questions"], "Ada", PHONE)
    assert page.fits() and page.violations() == []
    for key in ("3", "5", "5", "5", "5", "t", "f", "o", "t", "2"):
        page.press(key)
    assert page.run(COUNT) == "10 of 11 answered; screen 11 of 11"
    (tmp_path / "answers.csv").write_text(page.run("csv()"))
    key = Path(forms["questions"].removeprefix("file://")).with_name("key.tsv")
    answers = readers.read_answers(tmp_path / "answers.csv", readers.read_key(key))
    natural = {f"natural-{n}": "53"[n == 1] for n in range(1, 6)}
    truth = {"truth-1": "true", "truth-2": "false", "truth-3": "open", "truth-4": "true"}
    assert answers == natural | truth | {"choice-1": "2"}


def test_bindings_and_positions_are_compared_with_their_photos(page, tmp_path):
    """From annotations in the official form to the count of what is wrong: of each photo, Ada says that the caption
    above is true, and is not sure of the one below."""
    sides, materials, rows = [(0.05, 0.3, 0.3, 0.7), (0.65, 0.95, 0.3, 0.7)], ["Plastic", "Wooden"], []
    write_photos(tmp_path, {n: photo(n, 120, 90) for n in range(60)})
    for n in range(60):
        (x, y), (of_x, of_y) = sides[:: (1, -1)[n % 2]], materials[:: (1, -1)[n % 2]]
        rows += [row(n, "Chair", "is", of_x, x), row(n, "Table", "is", of_y, y), row(n, "Chair", "at", "Table", x, y)]
    write_release(tmp_path / "annotations", rows, range(60))
    dataset, asked = build_dataset(tmp_path, tmp_path / "data"), tmp_path / "asked"
    audit.main(["--review", str(asked), "--dataset", str(dataset), "--sample", "12", "--assign", "Ada"])

    page.check((asked / "review.html").as_uri(), "NatuRel captions: bindings and positions")
    page.click("#people button")
    images = page.run("[...document.querySelectorAll('figure img')].map(image => image.naturalWidth)")
    boxes = page.run("[...document.querySelectorAll('.box')].map(box => box.textContent)")
    assert images == [120] and sorted(boxes) == ["Chair", "Table"]
    for _ in range(12):
        page.press("y")
        page.press("m")
    assert "24 of 24 answered" in page.run(COUNT)
    (tmp_path / "answers-Ada.csv").write_text(page.run("csv()"))
    audit.main(["--readers", str(asked), "--score", str(tmp_path / "answers-Ada.csv")])
    _, wrong, unsure = (asked / "answers.md").read_text().split("\n## ")
    for kind in ("binding", "position"):
        key = [item for item in readers.read_key(asked / "key.tsv").values() if item.source == kind]
        below = {label: [not int(i.item[6:]) % 2 for i in key if i.label == label] for label in ("true", "false")}
        number, true_below = len(below["true"]), sum(below["true"])
        assert number > 3 and f"| {kind}, true | {number} | 0.000 (0.000-" in wrong
        assert f"| {kind}, false | {number} | {true_below / number:.3f} (" in wrong  # these are above
        assert f"| {kind}, true | {number} | {true_below / number:.3f} (" in unsure
