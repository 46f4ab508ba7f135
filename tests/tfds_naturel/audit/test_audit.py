"""The audit's statistics against values computed by hand, and what is in the review page."""

import base64
import dataclasses
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.helpers import open_images_files as oi
from tests.helpers.pages import embedded
from tfds_naturel.audit import __main__ as audit
from tfds_naturel.audit import attack, review
from tfds_naturel.captions import bank, grammar
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Triplet
from tfds_naturel.scenes.scene import CONFIGS

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


def test_audit_writes_its_report_and_fails_on_a_problem(small, tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(attack.MODELS, "boosting")  # slow
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


def test_audit_of_a_drawn_world(tmp_path, capsys, monkeypatch):
    few = dataclasses.replace(CONFIGS["scenes"], name="few", pairs_per_family=5, variants=1)
    monkeypatch.setitem(CONFIGS, "few", few)
    monkeypatch.delitem(attack.MODELS, "boosting")  # slow
    audit.main(["--world", "few", "--out", str(tmp_path / "out")])
    report = (tmp_path / "out" / "report.md").read_text()
    assert report in capsys.readouterr().out and not (tmp_path / "out" / "review.html").exists()
    seen, unseen = (3 * len(world.triplets) for world in few.compositions())
    assert f"{seen} pairs of seen triplets, {unseen} of held-out ones." in report
    rows = [row.split(" | ")[:2] for row in report.splitlines() if row.startswith(("| seen", "| held out"))]
    assert rows == [[f"| {part}", view] for part in ("seen", "held out") for view in ("masked", "raw", "style")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--world scenes --review r", "--review: not used with --world, which goes with --out"),
        ("--world scenes --out r --bank b.tsv", "--bank: not used with --world"),
        ("--out r --sample 0", "--sample: not used with --out, which goes with --bank"),
        ("--out r --score a.tsv", "--out: not used with --score, which goes with --readers"),
        ("--readers r --photos p", "--photos: not used with --readers"),
        ("--review r --overlap 0", "--overlap: needs --assign"),
        ("--agreement r", "--agreement: needs --decisions"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        audit.main(flags.split())
    assert message in capsys.readouterr().err


CAT_ON_TABLE, WOODEN = Triplet("Cat", "on", "Table"), Triplet("Table", "is", "Wooden")


def fetched(folder: Path) -> Path:
    """A folder as the fetcher leaves it: four photos, one broken, of seven annotated ones."""
    rows = [oi.row(n, "Cat", "on", "Table", (0, 0.1 * n, 0, 0.5)) for n in range(2, 6)]
    rows += [oi.row(6, "Table", "is", "Wooden", (0.2, 0.4, 0, 1)), oi.row(7, "Dog", "on", "Table")]
    oi.write_release(folder / "annotations", rows)
    oi.write_photos(folder, {n: oi.photo(n, 600, 400) for n in (2, 3, 6)} | {4: b"broken"})
    return folder


def test_photos_come_from_the_folder_of_the_fetcher(tmp_path):
    """Photos with the largest boxes come first, embedded; broken and missing ones are passed over."""
    found = review.find_photos(fetched(tmp_path), {CAT_ON_TABLE, WOODEN})
    names = {triplet: [photo.image_id for photo in of_triplet] for triplet, of_triplet in found.items()}
    assert names == {CAT_ON_TABLE: [oi.image_id(3), oi.image_id(2)], WOODEN: [oi.image_id(6)]}
    first = found[CAT_ON_TABLE][0]
    assert first.subject == (0, pytest.approx(0.3), 0, 0.5) and found[WOODEN][0].object is None
    with PIL.Image.open(io.BytesIO(base64.b64decode(first.address.split(",")[1]))) as image:
        assert image.size == (540, 360)


def test_folder_without_photos_is_refused(tmp_path, small):
    with pytest.raises(UserError, match=r"images/train: not found; --photos expects a folder of `python -m tfds_nat"):
        review.find_photos(tmp_path, small)
    (tmp_path / "images" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"annotations: has no challenge-2018-train-vrd.csv or oidv6-train"):
        review.find_photos(tmp_path, small)


def test_photos_are_found_without_a_flag_in_the_folder_of_the_readme(tmp_path, small, capsys, monkeypatch):
    bank.save(tmp_path / "bank.tsv", small)
    fetched(tmp_path / "open_images")
    monkeypatch.chdir(tmp_path)
    audit.main(["--bank", "bank.tsv", "--review", "out"])
    assert "out/review.html: 16 pairs, 1 triplets with photos\n" in capsys.readouterr().out
    assert list(embedded(tmp_path / "out" / "review.html", "shown")) == [str(WOODEN)]
