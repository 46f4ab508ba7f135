"""The readers of prepared TFDS folders: zero-shot classification, and NatuRel."""

import hashlib
import io
import itertools
import os
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from naturel_jax.benchmarks import __main__ as command
from naturel_jax.benchmarks import blind, naturel_contrast, naturel_pairs, naturel_reworded, own, registry, zeroshot
from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.benchmarks.files import BenchmarkError
from naturel_jax.data.items import prepared
from tests.helpers import benchmark_files as files
from tests.helpers.benchmark_files import read
from tests.helpers.worlds import data_dir
from tfds_naturel.captions.relations import converse
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import KINDS, POLARITIES, TRIPLET_KINDS, Triplet
from tfds_naturel.naturel import Naturel
from tfds_naturel.scenes.scene import VERSION


class Flowers(tfds.core.GeneratorBasedBuilder):
    """A labelled TFDS dataset."""

    VERSION = tfds.core.Version("1.0.0")
    LABELS: ClassVar = {"test": [0, 1, 0]}

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["red_rose", "tulip"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(labels) for split, labels in self.LABELS.items()}

    def _generate_examples(self, labels):
        for n, label in enumerate(labels):
            yield n, {"image": io.BytesIO(files.png(n)), "label": label}


class Secret(Flowers):
    """As TFDS prepares ImageNet: the labels of its test images are secret."""

    LABELS: ClassVar = {"test": [-1, -1], "validation": [0, -1, 1]}


class Unlabelled(Flowers):
    LABELS: ClassVar = {"test": [-1, -1]}


def written(builder: type[tfds.core.GeneratorBasedBuilder], root: Path) -> Path:
    """The folder of the dataset, prepared in ``root``."""
    made = builder(data_dir=root, file_format="array_record")
    made.download_and_prepare()
    return Path(made.data_path)


def test_zeroshot(tmp_path):
    for n, name in enumerate(("alpine_chough", "robin")):
        files.write(tmp_path / f"zeroshot/birds/{name}/a.png", files.png(n))
    files.write(tmp_path / "zeroshot/birds/templates.txt", b"a photo of a {}.\na drawing of a {}.\n")
    (tmp_path / "zeroshot/flowers").symlink_to(written(Flowers, tmp_path / "tfds"))
    benchmark = read("zeroshot", tmp_path)
    birds, flowers = benchmark.items[:2], benchmark.items[2:]
    assert birds[0].captions[0] == ("a photo of a alpine chough.", "a drawing of a alpine chough.")
    assert [item.tags["label"] for item in birds] == ["0", "1"]
    assert flowers[0].captions == (("a photo of a red rose.",), ("a photo of a tulip.",))
    assert sorted(item.images[0].read() for item in flowers) == sorted(files.png(n) for n in range(3))
    scores = benchmark.score(benchmark.items, [np.array([[0.5, 0.1]])] * 5)
    assert (scores["zeroshot/birds/top1"].value, scores["zeroshot/flowers/top1"].count) == (0.5, 3)


def test_zeroshot_scores_no_label_without_a_class(tmp_path):
    (folder := tmp_path / "zeroshot/flowers").parent.mkdir()
    folder.symlink_to(written(Secret, tmp_path / "tfds"))
    benchmark = read("zeroshot", tmp_path)
    assert sorted(str(item.tags["label"]) for item in benchmark.items) == ["0", "1"]
    assert benchmark.problems == (
        "flowers: split 'test' has no labels: all 2 are -1; split 'validation' is scored instead",
        "flowers split 'validation': 1 of 3 labels are not from 0 to 1, such as -1; their images are left out",
    )
    folder.unlink()
    folder.symlink_to(written(Unlabelled, tmp_path / "tfds"))
    with pytest.raises(BenchmarkError, match=r"'test' has no labels: all 2 are -1; expected 0 to 1; prepare a split"):
        read("zeroshot", tmp_path)


def test_zeroshot_names_classes_as_classnames_does(tmp_path):
    """ImageNet's folders and labels are WordNet ids, whose prompts would score at chance."""
    for n, name in enumerate(("n01440764", "n01443537")):
        files.write(tmp_path / f"zeroshot/imagenet/{name}/a.png", files.png(n))
    with pytest.raises(BenchmarkError, match=r"imagenet/classnames\.txt is missing: .* such as n01440764"):
        read("zeroshot", tmp_path)
    files.write(tmp_path / "zeroshot/imagenet/classnames.txt", b"n01443537 goldfish\n")
    with pytest.raises(BenchmarkError, match=r"classnames\.txt: no name for n01440764; expected a line for each class"):
        read("zeroshot", tmp_path)
    files.write(tmp_path / "zeroshot/imagenet/classnames.txt", b"n01443537 goldfish\nn01440764 a\nn01440764 b\n")
    with pytest.raises(BenchmarkError, match=r"classnames\.txt: several lines of 'n01440764'; keep the right one"):
        read("zeroshot", tmp_path)
    files.write(tmp_path / "zeroshot/imagenet/classnames.txt", b"n01443537 goldfish\nn01440764\tgreat white shark\n")
    captions = read("zeroshot", tmp_path).items[0].captions
    assert captions == (("a photo of a great white shark.",), ("a photo of a goldfish.",))


def test_zeroshot_reads_the_shards_of_clip_benchmark(tmp_path):
    files.clip_benchmark(tmp_path)
    benchmark = read("zeroshot", tmp_path)
    assert benchmark.items[0].captions == (("a photo of a red rose.", "red rose"), ("a photo of a tulip.", "tulip"))
    assert [item.images[0].read() for item in benchmark.items] == [files.png(n) for n in range(3)]
    assert [item.tags["label"] for item in benchmark.items] == ["1", "0", "0"]
    (problem,) = benchmark.problems
    assert problem.startswith("wds_flowers/test/1.tar record 1: has the fields '__key__, png, cls' and the label '2'; ")
    scores = benchmark.score(benchmark.items, [np.array([row]) for row in ([0.1, 0.5], [0.5, 0.1], [0.1, 0.5])])
    assert scores["zeroshot/wds_flowers/top1"].value == pytest.approx(2 / 3)
    assert scores["zeroshot/wds_flowers/mean_per_class"].value == (1 + 1 / 2) / 2
    names = tmp_path / "zeroshot/wds_flowers/classnames.txt"
    files.write(names, "\ufeffred rose\ntulip\n\n".encode())  # as some editors write it
    assert read("zeroshot", tmp_path).items[0].captions == benchmark.items[0].captions
    files.write(names, b"red rose\n\ntulip\n")
    with pytest.raises(BenchmarkError, match=r"classnames\.txt line 2: empty; expected the name of class 1"):
        read("zeroshot", tmp_path)
    files.write(names, "red\u2028rose\ntulip\n".encode())
    with pytest.raises(
        BenchmarkError, match=r"classnames\.txt: has the character '\\u2028', which ends a line for some"
    ):
        read("zeroshot", tmp_path)
    files.write(names, b"red rose\ntulip\n")
    files.write(tmp_path / "zeroshot/wds_flowers/test/nshards.txt", b"3\n")
    with pytest.raises(
        BenchmarkError, match=r"2\.tar is missing; nshards\.txt beside it says that there are '3' shards"
    ):
        read("zeroshot", tmp_path)
    for count in (b"3 shards\n", b"2.0\n", b"0\n", b""):
        files.write(tmp_path / "zeroshot/wds_flowers/test/nshards.txt", count)
        with pytest.raises(BenchmarkError, match=r"nshards\.txt: is '.*'; expected the number of shards"):
            read("zeroshot", tmp_path)
    files.write(tmp_path / "zeroshot/wds_flowers/dataset_type.txt", b"retrieval\n")
    with pytest.raises(BenchmarkError, match=r"dataset_type\.txt: is 'retrieval'; expected classification"):
        read("zeroshot", tmp_path)


def test_zeroshot_has_the_prompts_of_clip_benchmark_by_data_set(tmp_path):
    """And, as in clip_benchmark, those of ImageNet for a data set that the table does not have."""
    table = tmp_path / "zeroshot/en_zeroshot_classification_templates.json"
    files.write(table, {"imagenet1k": ["a bad photo of a {c}.", "itap of a {c}."], "pets": ["a {c}, a type of pet."]})
    for name in ("pets", "birds", "texts"):
        files.write(tmp_path / f"zeroshot/{name}/robin/a.png", files.png(0))
    files.write(tmp_path / "zeroshot/texts/templates.txt", b"{}\n")
    prompts = {item.tags["dataset"]: item.captions[0] for item in read("zeroshot", tmp_path).items}
    imagenet = ("a bad photo of a robin.", "itap of a robin.")
    assert prompts == {"pets": ("a robin, a type of pet.",), "birds": imagenet, "texts": ("robin",)}
    for wrong in ({"pets": [7]}, {"imagenet1k": "a {c}"}, {"pets": ["a pet"]}, {"birds": []}):
        files.write(table, wrong)
        with pytest.raises(BenchmarkError, match=r"templates\.json: expected a list of prompts, each with {c} for"):
            read("zeroshot", tmp_path)


def test_zeroshot_has_the_prompts_of_siglip(tmp_path):
    """The templates and their order are those of CLIP_PAPER_PROMPT_TEMPLATES, of which the hash is, in big_vision's
    prompt_engineering_constants.py at 0127fb6; prompts are as canonicalize_text and discriminative_classifier.py make
    them by default."""
    templates = zeroshot.SIGLIP_TEMPLATES
    digest = hashlib.sha256("\n".join(templates).encode()).hexdigest()
    assert (len(templates), digest) == (81, "617764ae37ca494aff67b36e2f3b3919d44fd3eeb5b4dba56f207ad6723c3d05")
    files.write(tmp_path / "zeroshot/birds/a/a.png", files.png(0))
    files.write(tmp_path / "zeroshot/birds/templates.txt", b"{}\n")  # CLIP's
    files.write(tmp_path / "zeroshot/birds/classnames.txt", b"a Bird's_T-shirt  {}, tee\n")
    benchmark = read("zeroshot_siglip", tmp_path)
    ((prompts,),) = (item.captions for item in benchmark.items)
    assert len(prompts) == 81 and prompts[-1] == "birds tshirt"
    assert prompts[0] == "a bad photo of a birds tshirt" and "a closeup photo of the birds tshirt" in prompts
    assert prompts[60:62] == ("a jpeg corrupted photo of the birds tshirt", "a good photo of a birds tshirt")
    assert next(metric.name for metric in benchmark.metrics) == "zeroshot_siglip/birds/top1"
    assert read("zeroshot", tmp_path).items[0].captions == (("Bird's_T-shirt  {}, tee",),)


@pytest.mark.parametrize("templates", ["", "a photo of it.", "a {} of {0}.", "a {} or {name}.", "a {} }."])
def test_zeroshot_rejects_bad_prompt_templates(tmp_path, templates):
    files.write(tmp_path / "zeroshot/birds/robin/a.png", files.png(0))
    files.write(tmp_path / "zeroshot/birds/templates.txt", templates.encode())
    with pytest.raises(BenchmarkError, match=r"birds/templates\.txt: expected one prompt per line"):
        read("zeroshot", tmp_path)


class Small(tfds.core.GeneratorBasedBuilder):
    """Two examples with the features of NatuRel that the reader uses. The first has a second group, without a triplet;
    the second lacks a negative."""

    VERSION = tfds.core.Version("4.1.0")
    KINDS = KINDS

    def _captions(self):
        text, kind = tfds.features.Text(), tfds.features.ClassLabel(names=list(self.KINDS))
        labels = {"kind": kind, "polarity": tfds.features.ClassLabel(names=list(POLARITIES))}
        numbers = dict.fromkeys(("group", "pair", "paraphrase"), np.int32)
        return labels | numbers | dict.fromkeys(("text", "triplet", "asserts"), text)

    def _info(self):
        captions = tfds.features.Sequence(self._captions())
        features = {"image": tfds.features.Image(), "image_id": tfds.features.Text(), "captions": captions}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _rows(self, n):
        rows = []
        for pair, polarity in itertools.product(range(4), ("positive", "negative")):
            row = {"text": f"{polarity} {pair}", "kind": "complex" if pair else "simple", "polarity": polarity}
            row |= {"group": 0, "pair": pair, "paraphrase": 0}
            rows.append(row | {"triplet": f"Cat|{('on', 'under')[n]}|Table", "asserts": ""})
        return rows[:7] if n else rows + [row | {"group": 1, "triplet": ""} for row in rows]

    def _generate_examples(self):
        for n in range(2):
            rows = [{name: row[name] for name in self._captions()} for row in self._rows(n)]
            yield n, {"image": io.BytesIO(files.png(n)), "image_id": f"id{n}", "captions": rows}


class Worded(Small):
    """The same with paraphrases: pair 2 has three wordings, and pair 1 two."""

    def _rows(self, n):
        rows = super()._rows(n)
        for number in (1, 2):
            worded = [row for row in rows if row["pair"] in (1, 2)[number - 1 :] and not row["paraphrase"]]
            rows += [row | {"paraphrase": number, "text": f"{row['text']} [{number}]"} for row in worded]
        return rows


class Ungrouped(Small):
    def _captions(self):
        return {name: feature for name, feature in super()._captions().items() if name != "group"}


class TwoKinds(Small):
    KINDS = TRIPLET_KINDS


@pytest.mark.parametrize(
    ("builder", "found"),
    [
        (Ungrouped, r"no captions\.group"),
        (TwoKinds, r"the labels \('simple', 'complex'\) of captions\.kind"),
    ],
)
def test_captions_in_another_format_are_refused(builder, found, tmp_path):
    folder = written(builder, tmp_path)
    needed = f"NatuRel's format of version {Naturel.VERSION}, or {VERSION} of a drawn world"
    with pytest.raises(UserError, match=rf"{folder}: version 4\.1\.0 .* {found}; expected {needed}: build it again"):
        naturel_pairs.TEST.read(folder)


def test_complex_captions_in_all_their_wordings(tmp_path):
    """On a circle, where cosines are those of angles: a caption is the closer, the smaller its angle."""
    benchmark = naturel_reworded.read(written(Worded, tmp_path))
    wordings = {1: ("positive 1", "positive 1 [1]"), 2: ("positive 2", "positive 2 [1]", "positive 2 [2]")}
    by_id = {item.id: item for item in benchmark.items}
    triplets = ("id0/Cat|on|Table", "id0/1", "id1/Cat|under|Table")
    assert sorted(by_id) == sorted(f"{start}/{pair}" for start in triplets for pair in (1, 2))
    for name, item in by_id.items():
        pair = int(name[-1])
        assert item.captions == (*wordings[pair], f"negative {pair}") and item.caption_rows
    assert by_id["id1/Cat|under|Table/2"].tags["relation"] == "under" and benchmark.true_captions == 0
    # Degrees between the image and the captions, the false one last; whether each score is won.
    angles = {
        "id0/Cat|on|Table/1": ((10, -20, 80), (1, 1)),
        "id0/Cat|on|Table/2": ((10, -20, 30, -80), (1, 1)),  # 50 apart, and 60 or more from the false one
        "id0/1/1": ((10, -20, -15), (0, 0)),
        "id0/1/2": ((40, -30, 10, -80), (1, 0)),  # 70 apart, and one is 50 from the false one
        "id1/Cat|under|Table/1": ((50, 60, 0), (0, 1)),
        "id1/Cat|under|Table/2": ((50, 60, 70, 60), (0, 0)),  # a tie is lost
    }

    def cosines(item) -> np.ndarray:
        captions = np.deg2rad(angles[item.id][0])
        return np.cos(np.round(np.subtract.outer([0, *captions], captions), 9))

    scores = benchmark.score(benchmark.items, list(map(cosines, benchmark.items)))
    values = {name: (score.value, score.count) for name, score in scores.items()}
    for n, score in enumerate(("image_to_text", "text_only")):
        won = [outcome[n] for _, outcome in angles.values()]
        assert values[f"naturel_reworded/{score}"] == (pytest.approx(sum(won) / 6), 6)
        assert values[f"naturel_reworded/{score}/on"] == (sum(won[:2]) / 2, 2)
        chance = ((1 / 3 + 1 / 4) / 2, (1 / 3 + 1 / 15) / 2)[n]  # of two wordings and of three
        assert benchmark.guess(benchmark.items)[f"naturel_reworded/{score}"] == pytest.approx(chance)


def test_dataset_with_one_wording_of_each_caption_has_nothing_to_compare(tmp_path):
    folder, reason = written(Small, tmp_path), "no complex caption of its split 'test' has several wordings; natur"
    with pytest.raises(UserError, match=reason):
        naturel_reworded.read(folder)


def test_a_prepared_dataset_is_read_once_until_another_is_in_its_place(tmp_path):
    def read() -> Benchmark:
        return registry.read(["naturel"], naturel=tmp_path / "naturel")[0]

    folders = [written(version, tmp_path / version.__name__) for version in (Small, Worded)]
    folders[0].rename(tmp_path / "naturel")
    first = read()
    assert read() is first
    (records,) = (tmp_path / "naturel").glob("*.array_record-*")
    os.utime(records, (0, 0))
    assert read() is not first
    shutil.rmtree(tmp_path / "naturel")
    with pytest.raises(UserError, match="not a prepared dataset"):
        read()
    folders[1].rename(tmp_path / "naturel")
    assert read() != first


@pytest.mark.parametrize("version", [Small, Worded])
def test_naturel(tmp_path, version):
    folder = written(version, tmp_path)
    benchmark = naturel_pairs.TEST.read(folder)
    by_id = {item.id: item for item in benchmark.items if not item.id.startswith("id0/1/")}
    assert len(by_id) == 7 and benchmark.problems == ("item id1/Cat|under|Table/3: has no negative caption",)
    item = by_id["id0/Cat|on|Table/2"]
    assert item.captions == ("positive 2", "negative 2") and item.images[0].read() == files.png(0)
    without_triplet = [item for item in benchmark.items if item.id not in by_id]
    assert [item.id for item in without_triplet] == [f"id0/1/{n}" for n in range(4)]
    assert all(set(item.tags) == {"kind"} for item in without_triplet)
    kept = list(by_id.values())
    scores = benchmark.score(kept, [np.array([[float(item.id.endswith("/1")), 0.5]]) for item in kept])
    values = {name: (score.value, score.count) for name, score in scores.items()}
    assert values["naturel/simple"] == (0, 2) and values["naturel/complex"] == (0.4, 5)
    assert values["naturel/complex/relation/under"] == (0.5, 2)
    assert values["naturel/complex/triplet/Cat|on|Table"] == (pytest.approx(1 / 3), 3)
    with pytest.raises(UserError, match="no split 'test_unseen_triplets'; expected one of: test"):
        naturel_pairs.UNSEEN.read(folder)
    with pytest.raises(UserError, match="not a prepared dataset"):
        naturel_pairs.TEST.read(tmp_path / "nothing")


def test_pairs_whose_claim_is_true_of_another_image_have_a_score_of_their_own():
    """In the drawn world, whose facts are all known."""
    folder = data_dir() / "naturel" / "tiny" / VERSION
    records = prepared.open_split(folder, "test").records
    shown = {fact for n in range(len(records)) for fact in facts(records, n)}
    claims = {
        (pair.id, pair.kind): pair.asserts
        for n in range(len(records))
        for pair in naturel_pairs.caption_pairs(records[n], [])
    }
    benchmark = naturel_pairs.TEST.read(folder)
    tags = {item.id: (item.tags["kind"], item.tags[f"{item.tags['kind']} mirrored"]) for item in benchmark.items}
    assert {tag for _, tag in tags.values()} == {"yes", "no"}
    for key, (kind, mirrored) in tags.items():
        claim = claims[key, kind]
        assert (mirrored == "yes") is bool(claim and {claim, str(converse(Triplet.parse(claim)))} & shown)
    metrics = [metric.name for metric in benchmark.metrics]
    assert {f"naturel/{kind}/mirrored/{value}" for kind in ("simple", "complex") for value in ("yes", "no")} <= {
        *metrics
    }


def test_training_captions_of_a_prepared_dataset_are_its_true_ones(tmp_path, capsys):
    folder = data_dir() / "naturel" / "tiny" / VERSION
    records = prepared.open_split(folder, "train").records
    groups = [group for n in range(len(records)) for group in prepared.caption_groups(records[n])]
    true = [text for group in groups for caption in group.positives for text in (caption.text, *caption.paraphrases)]
    assert sorted(own.captions(str(folder))) == sorted(true)
    rows = [{"image": "a.png", "positives": [true[0]], "negatives": ["it" + true[0].replace(" ", " un")]}]
    files.write(tmp_path / "my.jsonl", files.lines(rows))
    files.write(tmp_path / "a.png", files.png(0))
    command.main([f"pairs:{tmp_path}/my.jsonl", "--shortcuts", "--seen", str(folder)])
    assert "| my/accuracy | 1 | 0 (0.00) |" in (text := capsys.readouterr().out)
    assert text.splitlines()[-1].endswith("| 1.00 | 0.00 | 1.00 |"), "true seen, false seen, most seen"
    with pytest.raises(UserError, match=r"expected a file with the suffix .*, or a prepared NatuRel folder, such as"):
        list(own.captions(str(tmp_path)))


def facts(records, n: int) -> set[str]:
    """The triplets that an image of the drawn world shows: its relations are complete."""
    columns = (map(prepared.to_str, records[n]["relations"][name]) for name in ("subject", "relation", "object"))
    return {"|".join(fact) for fact in zip(*columns, strict=True)}


def test_contrasts_cannot_be_won_from_the_captions():
    """In the drawn world, whose facts are all known, with the scores of an oracle and of a model that is blind."""
    folder = data_dir() / "naturel" / "tiny" / VERSION
    records = prepared.open_split(folder, "test").records
    shown = {prepared.to_str(records[n]["image_id"]): facts(records, n) for n in range(len(records))}
    number = {records[n]["image"]: prepared.to_str(records[n]["image_id"]) for n in range(len(records))}
    benchmark = naturel_contrast.read(folder)
    assert {image.key: image.read() for item in benchmark.items for image in item.images}
    for item in benchmark.items:
        image_id, triplet, _ = item.id.split("/")
        own, other = (number[image.read()] for image in item.images)
        assert own == image_id and triplet in shown[own] and triplet not in shown[other]
    norms = {text: float(len(text)) for item in benchmark.items for text in item.captions}
    guesses = blind.baselines(benchmark, benchmark.items, [np.eye(2)] * len(benchmark.items), norms)
    assert set(guesses) == set(blind.BASELINES)
    for scores in guesses.values():
        assert {value for name, value in scores.items() if "_choice" in name} == {0.5}
        assert {value for name, value in scores.items() if "_choice" not in name} == {0.0}
    oracle = benchmark.score(benchmark.items, [np.eye(2)] * len(benchmark.items))
    assert {score.value for score in oracle.values()} == {1.0}
    mirrored = sum("mirrored" in item.tags for item in benchmark.items)
    assert 0 < mirrored < len(benchmark.items)
    assert sum(oracle[f"naturel_contrast/{kind}_group"].count for kind in ("simple", "complex")) == mirrored
