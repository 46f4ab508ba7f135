"""The audit's statistics against values computed by hand, and the review page in a browser."""

import html
import json
import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tfds_naturel import audit, decisions
from tfds_naturel.captions import bank, blind, grammar, review
from tfds_naturel.errors import UserError
from tfds_naturel.schema import Triplet

CAT = Triplet("Cat", "on", "Desk")


@pytest.fixture
def small() -> bank.Bank:
    triplets = [CAT, Triplet("Man", "holds", "Mug"), Triplet("Table", "is", "Wooden"), Triplet("Dog", "under", "Chair")]
    return {triplet: grammar.write(triplet, np.random.default_rng(n)) for n, triplet in enumerate(triplets)}


def test_distinct_by_hand():
    texts = ["the cat is on the desk", "the cat is under the desk"]
    assert audit.distinct(texts, 1) == 6 / 12  # the, cat, is, on, under, desk
    assert audit.distinct(texts, 2) == 7 / 10  # "the cat", "cat is" and "the desk" occur twice


def test_self_bleu_by_hand():
    # matching 1-, 2-, 3- and 4-grams: 5/6 (all but "on"/"under"), 3/5, 1/4, 0.1/3
    texts = ["the cat is on the desk", "the cat is under the desk"]
    assert audit.self_bleu(texts) == pytest.approx((5 / 6 * 3 / 5 * 1 / 4 * 0.1 / 3) ** 0.25)
    assert audit.self_bleu(["one two three four"] * 3) == pytest.approx(1)


def test_blind_accuracy_detects_only_giveaways():
    swaps = {str(n): [(f"a{n} on b{n}", f"b{n} on a{n}")] for n in range(40)}
    denied = {str(n): [(f"a{n} on b{n}", f"a{n} not on b{n}")] for n in range(40)}
    longer = {str(n): [("on " * (n % 7 + 3), "on " * (n % 7 + 30))] for n in range(40)}
    assert blind.accuracy(swaps, splits=3)["bag of words"] == (0.5, 0.5)
    assert blind.accuracy(denied, splits=3)["bag of words"] == (1, 1)
    assert blind.accuracy(longer, splits=3)["length"] == (1, 1)


def test_audit_writes_its_report_and_fails_on_a_problem(small, tmp_path, capsys):
    bank.save(tmp_path / "bank.tsv", small)
    arguments = ["--bank", str(tmp_path / "bank.tsv"), "--out", str(tmp_path / "out")]
    audit.main(arguments)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "32 captions of 4 triplets; every caption passes every check." in report and "| grammar alone |" in report
    assert report in capsys.readouterr().out
    text = (tmp_path / "bank.tsv").read_text()
    (tmp_path / "bank.tsv").write_text(text.replace("\tcat on desk\t", "\tcat onn desk\t"))
    with pytest.raises(UserError, match=r"bank.tsv: \d problems, listed in .*report.md"):
        audit.main(arguments)
    assert "'onn' is not in the dictionary" in (tmp_path / "out" / "report.md").read_text()


def test_errors_name_the_bad_input(small, tmp_path, monkeypatch):
    (tmp_path / "bank.tsv").write_text("triplet\n")
    out = ["--out", str(tmp_path / "out")]
    (tmp_path / "not.json").write_text("{")
    for arguments, match in {
        ("--bank", "bank.tsv"): r"bank.tsv row 1: found 'triplet', expected the tab-separated columns",
        ("--bank", "none.tsv"): r"none.tsv",
        ("--tokenizer", "not.json"): r"not.json: not a tokenizer.json",
    }.items():
        with pytest.raises((UserError, FileNotFoundError), match=match):
            audit.main([arguments[0], str(tmp_path / arguments[1]), *out])
    with pytest.raises(UserError, match=r"not.json: not JSON"):
        review.page(small, tmp_path / "not.json")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"sklearn is not installed: run `pip install 'naturel_jax\[audit\]'`"):
        audit.main(out)


def test_caption_text_cannot_inject_script_into_the_page(small):
    evil = "</script><script>alert(1)</script><!--\u2028"
    captions = tuple(c.__class__(**{**vars(c), "text": evil}) for c in small[CAT])
    page = review.page({CAT: captions})
    assert evil not in page and page.count("<script>") == 1
    rows = json.loads(re.search(r"const ROWS = (\[.*\]);", page)[1])
    assert rows[0]["text"] == evil and len(rows) == 8


@pytest.mark.parametrize(
    "photo", [{"image": "a.jpg"}, {"image": "javascript:alert(1)", "subject": [0, 0, 1, 1]}, {"subject": [0, 0, 2, 1]}]
)
def test_bad_photos_are_refused(tmp_path, small, photo):
    (tmp_path / "photos.json").write_text(json.dumps({str(CAT): [photo]}))
    with pytest.raises(ValueError, match=r"photo of Cat\|on\|Desk is .* expected image and boxes"):
        review.page(small, tmp_path / "photos.json")


def in_browser(page: str, script: str, folder) -> str:
    """The value of ``script`` (an expression), evaluated at the end of ``page`` in headless Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "this test drives the review page in Chromium: install it (apt-get install chromium)"
    call = f"<script>document.title = JSON.stringify({script});</script></html>"
    (folder / "review.html").write_text(page.replace("</html>", call), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [chromium, *flags, (folder / "review.html").as_uri()], capture_output=True, text=True, timeout=110, check=True
    )
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]))


@pytest.mark.slow
def test_review_page_keyboard_and_csv_round_trip(small, tmp_path):
    script = """(() => {
      const event = key => new KeyboardEvent("keydown", { key, bubbles: true });
      const press = (key, target = document) => target.dispatchEvent(event(key));
      press("a");
      press("r");
      at("reason").value = 'says "on", twice';
      press("Enter", at("reason"));
      press("ArrowRight"); press("a"); press("ArrowLeft"); press("u");
      const written = csv();
      decided = new Map();
      restore(written);
      at("relation").value = "is"; filter();
      const only = shown.length;
      at("relation").value = ""; at("state").value = "reject"; filter();
      return { written, again: csv(), only, rejected: shown.length, verdict: at("verdict").textContent,
               count: at("count").textContent };
    })()"""
    seen = in_browser(review.page(small), script, tmp_path)
    first, second = small[CAT][:2]
    assert seen["written"].splitlines() == [
        "triplet,pair,polarity,text,decision,reason",
        f'"Cat|on|Desk","0","positive","{first.text}","accept",""',
        f'"Cat|on|Desk","0","negative","{second.text}","reject","says ""on"", twice"',
    ]
    assert seen["again"] == seen["written"] and (seen["only"], seen["rejected"]) == (8, 1)
    assert seen["verdict"] == 'rejected: says "on", twice' and seen["count"].startswith("2 of 32 judged")
    (tmp_path / "decisions.csv").write_text(seen["written"], encoding="utf-8")
    assert decisions.rejected(tmp_path / "decisions.csv") == {(CAT, second.text)}


def test_agreement_of_two_annotators(tmp_path, small, capsys):
    bank.save(tmp_path / "bank.tsv", small)
    (tmp_path / "a.csv").write_text("triplet,text,decision\nCat|on|Desk,cat on desk,accept\n")
    files = [str(tmp_path / "a.csv")] * 2
    audit.main(["--bank", str(tmp_path / "bank.tsv"), "--out", str(tmp_path), "--decisions", *files])
    assert "Cohen's kappa 1.000 over 1 captions" in capsys.readouterr().out
    assert math.isnan(decisions.kappa({}, {})[0])
