"""The plan, the stages as commands, the state, and the comparison with known scores."""

import importlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from naturel_jax import config as c
from naturel_jax.data.batches import recipes
from naturel_jax.evaluators.mistakes import MISTAKES
from naturel_jax.report import known_scores
from naturel_jax.report.published import Checkpoint, ItemSet
from naturel_jax.reproduce import __main__ as command
from naturel_jax.reproduce import check, coco_train, costs, known, preview, runner, stages
from naturel_jax.reproduce.known import KNOWN
from naturel_jax.reproduce.stages import BUDGETS, RECIPES, STAGES, Budget, Task, Work
from tests.helpers import processes
from tests.helpers.documents import ROOT
from tfds_naturel import naturel
from tfds_naturel.common.errors import Stopped, UserError


def work(root: Path, budget: str = "full") -> Work:
    return Work(root, stages.parse_budget(budget), KNOWN)


# ---- The plan --------------------------------------------------------------------------------------------------------


def test_plan_names_downloads_licences_disk_and_every_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(preview, "get_token", lambda: None)
    command.main(["--workdir", str(tmp_path / "w"), "--budget", "photos=2000,steps=100", "--dry_run"])
    text = capsys.readouterr().out
    for item in ("2,000 photos of Open Images | 0.6 GB | CC BY 2.0", "winoground | 0.5 GB | Winoground: research only"):
        assert item in text
    assert "openai/clip-vit-base-patch32@main | 0.6 GB" in text, "151 million parameters of 4 bytes"
    assert "Not logged in to the hub: Winoground" in text
    assert re.search(rf"{tmp_path}/w: [\d.]+ GB free, about [\d.]+ GB needed", text)
    printed = [shlex.split(line) for line in text.splitlines() if line.startswith("python -m ")]
    fetches = [words[3:] for words in printed if words[2] == "tfds_naturel.open_images.fetch"]
    assert [words[-2:] for words in fetches] == [["--limit", "0"], ["--limit", "2000"]]
    assert [words[2] for words in printed].count("naturel_jax.main") == 4
    assert [words[2] for words in printed].count("naturel_jax.evaluate") == 3 + 4
    assert not (tmp_path / "w").exists(), "a plan writes nothing"


def test_page_has_the_table_that_the_command_prints():
    page = (ROOT / "docs/reproduce.md").read_text()
    assert preview.stages_text(work(Path("reproduction"))) in page, "copy it from `naturel-reproduce --dry_run`"


def test_numbers_of_the_page_are_those_of_the_plan():
    """Downloads, the hub's cache, and a small budget."""
    text, full, small = (ROOT / "docs/reproduce.md").read_text(), work(Path("w")), work(Path("w"), "small")
    fetched = sum(row.bytes for row in costs.downloads(full) if row.stage != "by hand")
    assert f"About {fetched / 1e9:.0f} GB come over the network" in text
    assert f"of which {sum(costs.from_hub(full).values()) / 1e9:.1f} GB go" in text
    disk = (sum(costs.disks(small).values()) + sum(costs.from_hub(small).values())) / 1e9
    assert f"happens, in {disk:.0f} GB" in text


def test_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(preview.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"w: 1\.0 GB free, about 10\d\.\d GB needed; free some space"):
        command.main(["--workdir", str(tmp_path / "w")])
    assert not (tmp_path / "w").exists()


def test_what_is_on_the_disk_is_not_needed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(preview.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    full = sum(disk.needed for disk in preview.disks(work(tmp_path), ["photos"]))
    (tmp_path / "open_images").mkdir()
    with (tmp_path / "open_images" / "photo.jpg").open("wb") as file:
        file.truncate(10**9)
    assert sum(disk.needed for disk in preview.disks(work(tmp_path), ["photos"])) == full - 1e9
    assert (
        sum(disk.needed for disk in preview.disks(work(tmp_path), ["report"]))
        <= costs.disks(work(tmp_path))["known"] * 3
    )


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--stage", "photos,tran"], "--stage 'tran': expected any of annotations, photos, "),
        (["--budget", "tiny"], "--budget 'tiny': expected full, small, or limits such as photos=2000,steps=100"),
        (["--budget", "photos=0"], "--budget 'photos=0'"),
        (["--budget", "photos=1,photos=2"], "--budget 'photos=1,photos=2'"),
    ],
)
def test_mistakes_in_flags_are_refused(tmp_path, flags, reason):
    with pytest.raises(UserError, match=re.escape(reason)):
        command.main(["--workdir", str(tmp_path), *flags])


def test_budgets_print_as_they_are_written():
    assert stages.parse_budget("photos=5,steps=7") == Budget(5, 7) and stages.parse_budget("steps=7") == Budget(None, 7)
    assert [str(stages.parse_budget(str(budget))) for budget in BUDGETS.values()] == ["full", "photos=2000,steps=100"]


# ---- What it assumes of the rest of the package ----------------------------------------------------------------------


def test_recipes_are_those_of_the_configs():
    assert str(naturel.Naturel.VERSION) == stages.VERSION
    for row, (name, datasets) in RECIPES.items():
        config = c.load(importlib.import_module(f"naturel_jax.configs.{name}").get_config())
        parts = config.data.mixture
        assert config.name == row and config.init == costs.STARTS.get(row, costs.CLIP)
        assert [part.dataset for part in parts.values()] == [f"naturel/{dataset}" for dataset in datasets]
        assert config.duration == f"{costs.EPOCHS} epochs" and config.data.batch_size == stages.BATCH
        assert config.checkpoint.every == f"{costs.SAVED} steps"
        assert all(part.recipe in recipes.RECIPES for part in parts.values())
    starts = {"hf:" + key.partition("@")[0] for key in KNOWN}
    assert {costs.CLIP, *costs.STARTS.values()} <= starts, "the poster's rows CLIP and SigLIP"


def test_training_command_of_a_small_budget_loads(tmp_path):
    """With naturel-train's own parser, in a process of its own, since flags can be parsed once."""
    code = "import sys; from naturel_jax import config, main\nfrom naturel_jax.cli import config_flags\n"
    code += "made = config.load(config_flags.parse(sys.argv)); print(made.duration, made.data.mixture['main'].dataset)"
    task = STAGES["train"].tasks(work(tmp_path, "small"))[2]
    done = subprocess.run([sys.executable, "-c", code, *task.arguments], capture_output=True, text=True)
    assert done.stdout == "100 steps naturel/part\n", done.stderr
    names = ("part", "coco_order", "winoground_part")
    assert task.needs.keys() == {tmp_path / "data/naturel" / name / "4.1.0" for name in names}


# ---- Known scores ----------------------------------------------------------------------------------------------------


def test_known_scores_are_as_published():
    """Some of vl_compo's, by hand."""
    clip, siglip, negclip = KNOWN.values()
    assert clip.scores["winoground/text"] == 0.3125 and clip.scores["coco_retrieval/text_to_image@1"] == 0.3045
    assert siglip.scores["vg_relation/macro"] == 0.3512 and negclip.scores["sugarcrepe/swap_att"] == 0.7703
    assert negclip.source == "negclip-b32:{weights}/negclip.pth" and siglip.by_hand == ""
    assert {metric.split("/")[0] for one in KNOWN.values() for metric in one.scores} == stages.EVALUATED.keys()
    assert all({metric.split("/")[0] for metric in one.scores} <= one.items.keys() for one in KNOWN.values())


SIGLIP_L = "google/siglip-large-patch16-256@main"


def test_example_of_the_page_is_read_and_malformed_files_are_refused(tmp_path):
    page = (ROOT / "docs/reproduce.md").read_text()
    file = tmp_path / "my.json"
    text = re.search(r'```json title="my.json"\n(.*?)```', page, re.DOTALL)[1]
    file.write_text(text)
    read = known.read(file)
    assert len(read) == 4 and read[SIGLIP_L].items == {"winoground": ItemSet(400)}
    for wrong, reason in (
        ("[]", "the file is [], expected an object"),
        ("[" * 100_000, "nested too deeply"),
        ("x", "not JSON (Expecting value: line 1 column 1 (char 0))"),
        (f'{{"{SIGLIP_L}": 3}}', f"the file's record {SIGLIP_L}: is a int, expected an object with fields name"),
        (re.sub(r"\{.winoground/.*?\}", "[1]", text), f"{SIGLIP_L}: field 'scores' is [1], expected dict"),
        (text.replace("0.3725", "null"), "score of winoground/text is None, expected a share from 0 to 1"),
        (text.replace("0.3725", "NaN"), "score of winoground/text is nan, expected a share from 0 to 1"),
        (text.replace("400", '"400"'), "the items' record winoground: field 'number' is '400', expected int"),
        (text.replace("0.3725", "37.25"), "winoground/text is 37.25, expected a share"),
        (text.replace('"winoground": {', '"aro": {'), "items of winoground are missing"),
        (text.replace('"origin"', '"from"'), f"the file's record {SIGLIP_L}: has no field 'origin'"),
    ):
        file.write_text(wrong)
        with pytest.raises(UserError, match=rf"my\.json: .*{re.escape(reason)}.*REPOSITORY@REVISION") as error:
            known.read(file)
        assert "Error" not in str(error.value)  # no name of an exception


def test_two_rows_of_one_name_are_refused(tmp_path):
    one = Checkpoint("NegCLIP", "hf:a/b", {}, "here")
    with pytest.raises(UserError, match="two rows of the tables would be called 'NegCLIP'"):
        Work(tmp_path, Budget(), {"a/b@main": one})


def test_verdicts():
    score = {"value": 0.30, "low": 0.25, "high": 0.35, "count": 400}
    assert known_scores.verdict_on(0.3049, score) == known_scores.AS_KNOWN
    assert known_scores.verdict_on(0.35, score) == known_scores.IN_INTERVAL
    assert known_scores.verdict_on(0.2499, score) == known_scores.OFF


@pytest.mark.parametrize(
    ("family", "benchmarks", "names"),
    [
        ("siglip", {"winoground"}, ["padding", "resize", "lower case", "precision", "another copy"]),
        ("clip", {"winoground"}, ["activation", "resize", "crop", "lower case", "precision", "another copy"]),
        (
            "siglip",
            {"vg_relation"},
            ["padding", "resize", "crop", "lower case", "excluded items", "precision", "items", "another copy"],
        ),
    ],
)
def test_causes_are_those_of_the_family_and_benchmark(family, benchmarks, names):
    found = known_scores.causes(family, benchmarks)
    assert [cause["name"] for cause in found] == names
    assert {mistake for cause in found for mistake in cause["mistakes"].split()} <= MISTAKES.keys()


def test_report_without_results_lists_every_score_as_not_measured(tmp_path, capsys):
    one = Checkpoint("M", "hf:a/b", {"winoground/text": 0.5}, "here", {"winoground": ItemSet(400)})
    assert check.report(Work(tmp_path, Budget(), {"a/b@main": one}), ["the row X: why"], tables=True)
    text = capsys.readouterr().out
    assert "| a/b@main | winoground/text | 0.5000 |  |  |  | not measured: no result |" in text
    assert " 0 within the interval, 0 off, 0 off or other items, 0 other items, 1 not measured." in text
    assert "- the row X: why" in text and (tmp_path / "check.md").read_text() in text


# ---- Running ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A module that writes its process id to the file in its first argument and ends with the code in its second, at
    once or after a minute."""
    text = "import os, pathlib, sys, time\npathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
    text += "time.sleep(60 * (len(sys.argv) > 3))\nsys.exit(int(sys.argv[2]))\n"
    (tmp_path / "fake_stage.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return lambda *arguments, **fields: Task("fake_stage", (str(tmp_path / "started"), *arguments), **fields)


def test_what_fails_is_left_out_or_ends_the_stage(fake, tmp_path, capsys):
    missing = {tmp_path / "negclip.pth": "by hand"}
    tasks = [fake("0"), fake("2", gap="row A"), fake("75", gap="row B"), fake("0", needs=missing, gap="row C")]
    gaps = runner.run_stage("known", tasks)
    assert [gap.partition(":")[0] for gap in gaps] == ["row A", "row B", "row C"]
    assert "exit code 2" in gaps[0] and f"{tmp_path}/negclip.pth is missing (by hand)" in gaps[2]
    assert f"$ python -m fake_stage {tmp_path}/started 0" in capsys.readouterr().out
    for code, error, reason in (("75", Stopped, "run the same command again"), ("2", UserError, "exit code 2")):
        with pytest.raises(error, match=reason):
            runner.run_stage("photos", [fake(code)])


def test_state_keeps_what_is_done_and_refuses_another_budget(tmp_path):
    state, tasks = runner.DoneStages(work(tmp_path)), [Task("a", ("--b",))]
    assert not state.done("photos", tasks)
    state.finish("photos", tasks, 1.0, [])
    state.finish("known", tasks, 2.0, ["row A: why"])
    again = runner.DoneStages(work(tmp_path))
    assert again.done("photos", tasks) and not again.done("known", tasks) and again.gaps == ["row A: why"]
    with pytest.raises(UserError, match=r"state\.json: budget is 'full', now 'photos=2000,steps=100'; choose another"):
        runner.DoneStages(work(tmp_path, "small"))


def test_evaluation_is_not_done_once_more_files_are_there(tmp_path):
    (tmp_path / "files").mkdir()
    state = runner.DoneStages(work(tmp_path))
    state.finish("known", STAGES["known"].tasks(work(tmp_path)), 1.0, [])
    assert state.done("known", STAGES["known"].tasks(work(tmp_path)))
    (tmp_path / "files/aro").mkdir()
    (tmp_path / "files/aro/visual_genome_relation.json").touch()
    tasks = STAGES["known"].tasks(work(tmp_path))
    assert not state.done("known", tasks) and "vg_relation" in tasks[0].arguments


PARENT = """
from naturel_jax.devices import preemption
from naturel_jax.reproduce import runner, stages
from tfds_naturel.common import cli
def main(arguments):
    preemption.install_handler()
    runner.run_stage("train", [stages.Task("fake_stage", tuple(arguments))])
cli.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_child_does_not_outlive_its_parent(fake, tmp_path, number):
    started = tmp_path / "started"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(started), "0", "slowly"])
    processes.wait_until(lambda: started.exists() and started.read_text())
    parent.send_signal(number)
    assert parent.wait(30) == (75 if number != signal.SIGKILL else -signal.SIGKILL)
    child = int(started.read_text())
    processes.wait_until(lambda: not processes.is_running(child))


def test_first_images_of_cocos_training_split():
    rows = [{"image": f"train2014/{n // 2}.jpg", "caption": f"{n}"} for n in range(10)]
    data = json.dumps(rows).encode()
    assert coco_train.first_images(data, None) == data
    assert json.loads(coco_train.first_images(data, 2)) == rows[:4]
    for wrong in (b"{}x", b"[1]", b'[{"caption": "a"}]', b"[" * 100_000):
        with pytest.raises(ValueError, match=r"not a list of records|Extra data|nested too deeply"):
            coco_train.first_images(wrong, 2)
