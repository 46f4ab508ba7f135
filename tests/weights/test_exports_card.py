"""Model cards: metadata that the hub reads, facts of the run, and nothing from outside that is not escaped."""

import re
import time

import huggingface_hub
import pytest
from etils import epath

from naturel_jax import convert, storage
from naturel_jax.checkpoints import checkpoint_meta, finished
from naturel_jax.models.presets import preset
from naturel_jax.weights import export, model_card
from tests.helpers.model_files import tiny
from tests.helpers.worlds import write_checkpoints
from tfds_naturel.common.errors import UserError

MIXTURE = {
    "main": {"dataset": "naturel/full", "recipe": "all_pairs"},
    "mine": {"dataset": "hf:owner/photos", "recipe": "one_pair"},
    "csv": {"dataset": "csv:/home/me/mine.csv", "recipe": "one_pair"},
}
CONFIG = {
    **{"name": "NegCLIP-AP", "init": "hf:openai/clip-vit-base-patch32@main", "duration": "5 epochs", "seed": 0},
    "objective": {"name": "softmax", "counting": "published"},
    "optim": {"name": "adamw", "lr": 1e-6, "warmup": "5%", "weight_decay": 0.1},
    "data": {"dir": "/home/me/data", "mixture": MIXTURE},
}
SCORES = {"winoground/text": 0.28125, "winoground/text/Object": 0.3, "naturel/simple": 0.99, "mine/x": 1.0}


def write_run(path, config=CONFIG, scores=None):
    """A run as training leaves it."""
    model, params, processor = tiny("tiny-clip")
    write_checkpoints(path, {7: params}, checkpoint_meta.make_meta(config, model, processor))
    if scores is not None:
        request = {"config": config, "duration": "", "benchmarks": []}
        finished.write(epath.Path(path), finished.Saved(finished.Finished(scores, {}, {}, {}, {}), request))
    return path


def card_of(folder) -> huggingface_hub.ModelCard:
    return huggingface_hub.ModelCard.load(folder / "README.md")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("card")
    run = write_run(root / "run", scores=SCORES)
    extended = [{"step": 5, "duration": "2 epochs", "same_rates": same} for same in (True, False)]
    storage.write_json(epath.Path(run) / "config.json", {"config": CONFIG, "extended": extended})
    convert.main([f"run:{run}", str(root / "out")])
    return root / "out"


def test_metadata_of_a_run(exported):
    """As huggingface_hub's own reader finds it."""
    data = card_of(exported).data
    assert (data.license, data.base_model) == ("mit", "openai/clip-vit-base-patch32")
    assert (data.library_name, data.pipeline_tag) == ("transformers", "zero-shot-image-classification")
    assert data.datasets == ["owner/photos"] and "clip" in data.tags
    assert data.model_name == "NegCLIP-AP"
    found = {(result.dataset_type, result.metric_name): result.metric_value for result in data.eval_results}
    assert found == {("facebook/winoground", "text"): 0.2812, ("naturel", "simple"): 0.99, ("mine", "x"): 1.0}


def test_scores_on_a_drawn_world_are_not_those_of_the_benchmarks():
    """Neither a twin of Winoground nor the world's own NatuRel; a benchmark of one's own is what it says."""
    model, _, processor = tiny("tiny-clip")
    found = {}
    for folder in ("", "/benchmarks"):
        recipe = CONFIG | {"eval": {"naturel": "naturel/scenes", "benchmarks_dir": folder}}
        about = model_card.About("tiny", "run:x", recipe=recipe, scores=SCORES)
        card = huggingface_hub.ModelCard(model_card.render(about, model, processor, form="hf", dtype="float32"))
        found[folder] = {result.dataset_type for result in card.data.eval_results}
        assert "**Not the published benchmarks:** `naturel`" in card.text and "| winoground/text |" in card.text
        assert ("`winoground` are drawn" in card.text) == (not folder)
    assert found == {"": {"mine"}, "/benchmarks": {"mine", "facebook/winoground"}}


def test_text_of_a_run(exported):
    text = card_of(exported).content
    for part in (
        *("\n# NegCLIP-AP\n", "fine-tuned from openai/clip-vit-base-patch32", "- steps: 7 (duration `5 epochs`)"),
        *("- objective: `softmax`", "- data `main`: `naturel/full`, captions sampled by `all_pairs`"),
        *("- data `csv`: `csv:mine.csv`, captions sampled by `one_pair`", "| winoground/text | 0.2812 |"),
        *("## Intended use", "## Limits"),
    ):
        assert part in text, part
    assert "/home/me" not in text
    assert text.count("- became longer at step 5, after the learning rates of a run of `2 epochs`") == 1


def test_titles_of_other_sources(tmp_path):
    export.save(tmp_path / "My-Model", *tiny("tiny-siglip"), form="hf")
    convert.main([str(tmp_path / "My-Model"), str(tmp_path / "out")])
    card = card_of(tmp_path / "out")
    assert "\n# My-Model\n" in card.content and "Converted from `My-Model`" in card.text
    assert card.data.license is None and card.data.eval_results is None
    assert "## License\n\nNot known" in card.text


def test_license_and_base_of_a_folder_are_those_of_its_card(tmp_path):
    export.save(tmp_path / "a", *tiny("tiny-clip"), form="hf")
    (tmp_path / "a" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nbase_model: owner/base\n---\n# A")
    about = model_card.about(str(tmp_path / "a"))
    assert (about.license, about.base) == ("cc-by-nc-4.0", "owner/base")


@pytest.mark.parametrize(
    "card", ["", "no metadata", "---\n[", "---\nlicense: [a]\nbase_model: {a: b}\n---", "---\nlicense: 'A\\nB'\n---"]
)
def test_broken_cards_of_folders_are_ignored(tmp_path, card):
    (tmp_path / "README.md").write_text(card)
    about = model_card.about(str(tmp_path))
    assert (about.license, about.base) == ("", "")


def test_reading_a_card_takes_no_longer_than_its_bytes(tmp_path):
    """A megabyte of YAML takes 10 s to parse."""
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\ntags: [{'1,' * 500_000}]\n---\n")
    began = time.process_time()
    assert model_card.about(str(tmp_path)).license == "mit" and time.process_time() - began < 1


@pytest.mark.parametrize("init", ["run:a\0b", "run:", 5, None])
def test_run_that_started_from_nothing_that_has_a_name_has_no_base(tmp_path, init):
    write_run(tmp_path / "run", CONFIG | {"init": init})
    assert model_card.about(f"run:{tmp_path / 'run'}").base == ""


def test_base_is_found_through_runs_that_started_from_each_other(tmp_path):
    write_run(tmp_path / "first", CONFIG | {"init": "hf:google/siglip-base-patch16-224"})
    write_run(tmp_path / "second", CONFIG | {"init": "base:first"})
    write_run(tmp_path / "third", CONFIG | {"init": f"run:{tmp_path / 'second'}"})
    about = model_card.about(f"run:{tmp_path / 'third'}")
    assert (about.base, about.license) == ("google/siglip-base-patch16-224", "apache-2.0")
    write_run(tmp_path / "loop", CONFIG | {"init": "base:loop"})
    assert model_card.about(f"run:{tmp_path / 'loop'}").base == ""
    write_run(tmp_path / "download" / "foreign", CONFIG | {"init": "base:../first"})
    assert model_card.about(f"run:{tmp_path / 'download' / 'foreign'}").base == "", (
        "a foreign run reads no other folder"
    )


def test_unknown_models_have_no_license():
    assert not any(map(model_card.license_of, ("a/b", "openai/other", "laion/x")))


def test_scores_of_another_model_are_left_out(tmp_path):
    """An interpolated model has not been evaluated."""
    run = write_run(tmp_path / "run", scores=SCORES)
    convert.main([f"run:{run}", str(tmp_path / "out"), "--interpolate", f"run:{run}"])
    card = card_of(tmp_path / "out")
    assert card.data.eval_results is None and "Not evaluated" in card.text and "weight by weight" in card.text


def test_broken_scores_name_the_file(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "scores.json").write_text(storage.sealed({"scores": [1]}))
    with pytest.raises(UserError, match=r"scores\.json: not the scores of a run"):
        model_card.about(f"run:{run}")


EVIL = (
    "x\n---\nlicense: mit\n# [a](http://b) <script>alert(1)</script> `code` ```\n```python\nimport os\n```\x1b[2J\u202e"
)


def test_names_from_elsewhere_are_escaped(tmp_path):
    """In the title, the metadata, the tables, and the config."""
    part = {"dataset": EVIL, "recipe": EVIL}
    fields = {"name": EVIL, "init": EVIL, "duration": EVIL, "objective": {"name": EVIL}, "optim": {"name": EVIL}}
    config = CONFIG | fields | {"data": {"mixture": {EVIL: part}}}
    run = write_run(tmp_path / "run", config, {EVIL.replace("/", "") + "/x": 0.5})
    convert.main([f"run:{run}", str(tmp_path / "out")])
    card = card_of(tmp_path / "out")
    assert card.data.license is None and len(card.data.eval_results) == 1
    outside = "\n" + re.sub(r"```json\n.*?\n```", "", card.text, flags=re.DOTALL)
    blocks = re.findall(r"^```python\n(.*?)^```", card.text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3 and not any("import os" in code for code in blocks)
    assert "\x1b" not in card.content and "\u202e" not in card.content
    assert "<script" not in re.sub(r"(`+).*?\1|\\<", "", outside) and "\n# [" not in outside
    assert outside.count("\n# ") == 1


def test_untrained_preset_says_so(tmp_path):
    about = model_card.About("x", "x", recipe={"preset": "tiny-clip", "objective": None, "data": {"mixture": None}})
    _, _, processor = tiny("tiny-clip")
    text = model_card.render(about, preset("tiny-clip"), processor, form="run", dtype="float32")
    assert "started from: random parameters, `tiny-clip`" in text and "objective: `unknown`" in text
    base = {"preset": "tiny-clip", "data": {"batch_size": 64}}
    recipe = CONFIG | {"init": "base:first", "bases": {"first": base}} | {"data": {"batch_size": 32, "threads": 8}}
    about = model_card.About("x", "x", recipe=recipe)
    text = model_card.render(about, preset("tiny-clip"), processor, form="run", dtype="float32")
    assert "started from: `base:first`, which was trained from random parameters, `tiny-clip`\n" in text
    assert "- images in a batch: `32`\n" in text and '"batch_size": 32' in text and '"seed": 0' in text
    assert "threads" not in text
