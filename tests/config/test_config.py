"""The config: files return ConfigDicts that become typed, and invalid values are rejected by field name."""

import dataclasses
import importlib
import re

import pytest

from naturel_jax import config as c
from naturel_jax.cli import config_flags
from naturel_jax.config import durations, versions
from naturel_jax.config.settings import fixed
from tests.helpers import tiny_config
from tfds_naturel.common.errors import UserError

CONFIGS = config_flags.names()


def tiny(**changes):
    config = tiny_config.get_config()
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        setattr(config[section] if section else config, field, value)
    return config


DEMOS = {
    "demo": ["CLIP", "SigLIP", "NegCLIP", "NegCLIP-SP", "NegCLIP-AP", "SigLIP-TP", "CLIP-NatuRel", "SigLIP-NatuRel"],
    "demo_bindings": ["CLIP", "NegCLIP-SP", "NegCLIP-SP, bindings", "NegCLIP-SP, positions"],
}


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in (*DEMOS, "lab")])
@pytest.mark.parametrize("world", ["", "scenes"])
def test_every_config_file_loads(name, world):
    config = c.load(importlib.import_module(f"naturel_jax.configs.{name}").get_config(world))
    assert bool(config.init) != bool(config.preset)


@pytest.mark.parametrize("name", DEMOS)
def test_runs_of_a_demo_begin_with_its_bases(name):
    config = c.load(importlib.import_module(f"naturel_jax.configs.{name}").get_config())
    assert [run.name for run in config.runs.values()] == DEMOS[name]
    for run in config.runs.values():
        kind, _, base = run.init.partition(":")
        assert not run.init or (kind == "base" and run.bases[base] == config.runs[base])


def test_parsed_config_is_frozen_and_filled_with_defaults():
    config = c.load(tiny())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    assert config.optim.eps == c.Optim().eps and config.data.mixture["main"].weight == 1.0


def test_defaults_are_the_published_negclip_recipe():
    """arXiv 2210.01936; betas, eps and decay are OpenCLIP's defaults for ViT."""
    optim = c.Optim()
    assert (optim.lr, optim.b1, optim.b2, optim.eps, optim.weight_decay) == (1e-6, 0.9, 0.98, 1e-6, 0.2)
    assert optim.warmup == "50 steps" and optim.schedule == "cosine" and optim.name == "adamw"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"optim__lr": -1.0}, r"config\.optim\.lr is -1\.0; expected a number above 0"),
        ({"optim__lr": float("nan")}, r"config\.optim\.lr is nan"),
        ({"optim__clip_norm": -1.0}, r"config\.optim\.clip_norm is -1\.0; expected a number of at least 0"),
        ({"optim__skip_above": 0.5}, r"config\.optim\.skip_above is 0\.5; expected 0 or a number above 1"),
        ({"optim__layer_decay": 0.0}, r"config\.optim\.layer_decay is 0\.0; expected a number above 0, at most 1"),
        ({"optim__name": "prodigy"}, r"config\.optim\.weight_decay is 0\.2: .* set weight_decay to 0\.0"),
        ({"optim__name": "schedule_free_adamw", "optim__ema": 0.5}, r"an average of its own, .* set ema to 0\.0"),
        ({"objective__calibrate_bias": True}, r"calibrate_bias is True: the softmax loss has no bias"),
        ({"eval__interpolate": (0, 1.5)}, r"config\.eval\.interpolate is \(0, 1\.5\); expected numbers from 0 to 1"),
        ({"eval__interpolate": (0, 1)}, r"config\.eval\.interpolate is .* does not train a model that it starts from"),
        ({"eval__interpolate_by": "naturel/text"}, r"interpolate_by is 'naturel/text' and .* expected shares"),
        ({"optim__ema": 1.5}, r"config\.optim\.ema is 1\.5; expected a number from 0 to less than 1"),
        ({"optim__weight_decay": -1.0}, r"config\.optim\.weight_decay is -1\.0"),
        ({"optim__name": "adam"}, r"config\.optim\.name is 'adam'; expected one of: 'adamw', 'lion'"),
        ({"optim__schedule": "cosin"}, r"config\.optim\.schedule is 'cosin'; expected one of: 'cosine'"),
        ({"optim__warmup": "3 weeks"}, r"config\.optim\.warmup is '3 weeks'; expected a number and a unit"),
        ({"optim__lr_multipliers": (("(", 1.0),)}, r"config\.optim\.lr_multipliers .*regular expressions"),
        ({"optim__lr_multipliers": (("a", -1.0),)}, r"config\.optim\.lr_multipliers"),
        ({"optim__lr_multipliers": ("image/.*", 0.0)}, r"multipliers is .*\(\(pattern, factor\), \.\.\.\)"),
        ({"objective__label_smoothing": 2.0}, r"config\.objective\.label_smoothing is 2\.0"),
        ({"objective__hard_negative_weight": -1.0}, r"config\.objective\.hard_negative_weight is -1\.0"),
        ({"objective__name": "softmax_each", "objective__hard_negative_weight": 2.0}, r"no hard negatives; set it to"),
        ({"objective__tile": 0}, r"config\.objective\.tile is 0; expected a number of at least 1"),
        ({"objective__chunks": 0}, r"config\.objective\.chunks is 0"),
        ({"objective__counting": "both"}, r"config\.objective\.counting is 'both'; expected one of: 'published'"),
        ({"objective__name": "softmix"}, r"config\.objective\.name is 'softmix'; expected one of: 'softmax'"),
        ({"data__crop_scale": (2.0, 3.0)}, r"crop_scale is \(2\.0, 3\.0\); expected two numbers \(low, high\)"),
        ({"data__crop_scale": (1.0, 0.5)}, r"config\.data\.crop_scale is \(1\.0, 0\.5\)"),
        ({"data__crop_scale": (0.0, 0.0)}, r"config\.data\.crop_scale is \(0\.0, 0\.0\)"),
        ({"data__cache": "encoded"}, r"config\.data\.cache is 'encoded'; expected one of '', 'decoded'"),
        ({"data__batch_size": 0}, r"config\.data\.batch_size is 0"),
        ({"data__threads": 0}, r"config\.data\.threads is 0"),
        ({"eval__batch_size": 0}, r"config\.eval\.batch_size is 0"),
        ({"eval__during": {"winoground": "1 epoch"}}, r"config\.eval\.during has \['winoground'\]"),
        ({"eval__during": {"naturel": "often"}}, r"config\.eval\.during\.naturel is 'often'; expected a number"),
        ({"seed": -1}, r"config\.seed is -1; expected a number from 0 to 9,223,372,036,854,775,807"),
        ({"seed": 1 << 63}, r"config\.seed is 9223372036854775808"),
        ({"compute__dtype": "float17"}, r"config\.compute\.dtype is 'float17'; expected one of 'auto', 'float32'"),
        ({"compute__remat": "some"}, r"config\.compute\.remat is 'some'; expected one of: 'none'"),
        ({"mesh__fsdp": 0}, r"config\.mesh\.fsdp is 0; expected -1 or a whole number"),
        ({"mesh__fsdp": -1}, r"config\.mesh has -1 .* on more than one axis"),
        ({"preset": "tiny-clap"}, r"config\.preset is 'tiny-clap'; expected one of: .*'tiny-clip'"),
        ({"preset": ""}, r"config\.init is '' and config\.preset is '': set one of them"),
        ({"duration": "soon"}, r"config\.duration is 'soon'; expected a number and a unit: '500 steps'"),
        ({"duration": "5%"}, r"config\.duration is '5%'"),
        ({"duration": "1e99 epochs"}, r"config\.duration is '1e99 epochs'; .* at most 1e9 steps, 1e6 epochs"),
        ({"duration": "1e9999 steps"}, r"config\.duration is '1e9999 steps'"),
        ({"checkpoint__every": "101%"}, r"config\.checkpoint\.every is '101%'"),
        ({"optim__warmup": "40 steps"}, r"optim\.warmup is '40 steps', longer than the run: .*duration is '20 steps'"),
        ({"optim__warmup": "336 examples"}, r"config\.optim\.warmup is '336 examples', longer than the run"),
        ({"objective__chunks": 17}, r"config\.objective\.chunks is 17, but config\.data\.batch_size is 16"),
        ({"data__threads": 1_000_000}, r"config\.data\.threads is 1000000; expected a number from 1 to 1,024"),
        ({"data__workers": 1025}, r"config\.data\.workers is 1025; expected a number from 0 to 1,024"),
        ({"eval__batch_size": 1 << 30}, r"config\.eval\.batch_size is 1073741824; expected a number from 1 to"),
        ({"eval__benchmarks": ("naturel", "vsr", "naturel")}, r"benchmark 'naturel' is named twice"),
        ({"eval__benchmarks": ("naturel", "pairs:a.csv", "pairs:a.csv")}, r"benchmark 'pairs:a\.csv' is named twice"),
        ({"name": "../../x<script>"}, r"config\.name is '\.\./\.\./x<script>'; expected a name of at most 100 "),
        ({"name": "a\nb"}, r"config\.name is .*; expected a name"),
        *(
            ({"optim__lr_multipliers": ((pattern, 0.0),)}, r"lr_multipliers .*five repetitions, none of a group")
            for pattern in ("(a+)+$", "((?:x*))*", "(a|a)*b", r"(\w{1,9}/){2,}", ".*.*.*.*.*.*x", "(.*.*.*)(.*.*.*)x")
        ),
        *(
            ({"adapter__targets": (pattern,)}, r"adapter\.targets .*five repetitions, none of a group")
            for pattern in ("(.?){9}x", "(?:.?){40}", "x?x?x?x?x?x?y", "(a|b)" * 6, "x{9999999999}")
        ),
        ({"checkpoint__keep": 0}, r"config\.checkpoint\.keep is 0"),
        ({"name": ""}, r"config\.name is ''; expected a name"),
        ({"data__mixture": {"a": {"recipe": "one_pair"}}}, r"config\.data\.mixture\.a has no dataset; set"),
        ({"data__mixture": {"a": {"dataset": "naturel/x"}}, "data__cache_captions": True}, r"mixture\.a has no recipe"),
    ],
    ids=str,
)  # fmt: skip
def test_invalid_values_are_rejected_by_field_name(changes, expected):
    with pytest.raises(UserError, match=expected):
        c.load(tiny(**changes))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("weight", 0.0, r"config\.data\.mixture\.main\.weight is 0\.0; expected a number above 0"),
        ("recipe", "one_piar", r"config\.data\.mixture\.main\.recipe is 'one_piar'; expected one of: .*'single_pair'"),
        ("dataset", "", r"config\.data\.mixture\.main\.dataset is ''; expected a name"),
    ],
)
def test_mixture_parts_are_checked(field, value, expected):
    config = tiny()
    config.data.mixture.main[field] = value
    with pytest.raises(UserError, match=expected):
        c.load(config)


def test_bases_and_suite_runs_are_checked_up_front():
    config = tiny(preset="", init="base:first")
    config.bases.first = tiny(data__batch_size=0)
    with pytest.raises(UserError, match=r"config\.bases\.first\.data\.batch_size is 0"):
        c.load(config)
    config.bases.first = tiny(preset="")
    with pytest.raises(UserError, match=r"config\.bases\.first\.init is '' and config\.bases\.first\.preset is ''"):
        c.load(config)
    with pytest.raises(UserError, match=r"config\.runs\.b\.init is '' and config\.runs\.b\.preset is ''"):
        c.load(c.suite({"a": tiny(), "b": tiny(preset="")}, {}, ""))


def test_the_runs_of_a_suite_make_another():
    runs = c.suite({"a": tiny(), "b": tiny(name="second")}).runs
    assert [run.name for run in c.load(c.suite(runs)).runs.values()] == ["tiny softmax", "second"]


@pytest.mark.parametrize("name", ["/first", "a/b", "", "x<script>"])
def test_names_of_bases_and_runs_are_those_of_folders(name):
    config = tiny(preset="", init="base:first")
    config.bases = {name: tiny()}
    expected = rf"config\.bases has a run {re.escape(repr(name))}; expected the name of a folder"
    with pytest.raises(UserError, match=expected):
        c.load(config)
    with pytest.raises(UserError, match=r"config\.runs has a run "):
        c.load(c.suite({name: tiny()}, {}, ""))


def test_patterns_that_recipes_use_are_allowed():
    patterns = (
        "image/.*",
        "image/transformer/blocks/(9|10|11)/.*",
        r"(image|text)/[a-z_]+(/bias)?",
        "[(+*]+x",
        "[[a]+x",  # of which Python warns
        r"\(a+\)",
        "(?:image|text)/(?:.*?/)?bias",
        "(?:ab)+",
    )
    c.load(tiny(optim__lr_multipliers=tuple((pattern, 0.5) for pattern in patterns)))


def test_label_smoothing_with_match_ignore_is_rejected():
    with pytest.raises(UserError, match=r"label_smoothing is 0\.1: not defined for .*'match_ignore'"):
        c.load(tiny(objective__label_smoothing=0.1, objective__counting="match_ignore"))


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        *(("500 steps", 500), ("1 step", 1), ("0 steps", 0), (" 3.0 steps ", 3), ("65 examples", 2), ("5%", 50)),
        *(("0.01%", 1), ("2 epochs", 200), ("0.255 epochs", 26), ("1e6 examples", 15625)),
    ],
)
def test_durations_in_steps(text, steps):
    """Of 6,400 examples, an epoch is 100 batches of 64; parts of a batch are rounded up."""
    assert durations.steps(text, batch_size=64, examples=6400, total=1000) == steps


def test_exact_step_counts_are_not_rounded_up():
    assert durations.steps("700 examples", batch_size=100, examples=1) == 7
    assert durations.steps("7%", batch_size=1, examples=1, total=300) == 21


@pytest.mark.parametrize("text", ["", "500", "five steps", "-3 steps", "5 minutes", "1.2.3 steps", ". steps"])
def test_invalid_duration_error_names_the_field_and_the_format(text):
    with pytest.raises(UserError, match=r"config\.checkpoint\.every is .*expected a number and a unit: '500 steps'"):
        c.load(tiny(checkpoint__every=text))


def test_json_round_trip():
    config = c.load(tiny())
    assert versions.from_json(versions.to_json(config)) == config
    later = versions.to_json(config) | {"version": versions.VERSION + 1}
    with pytest.raises(UserError, match=r"has version 4; this naturel_jax reads 3"):
        versions.from_json(later)


def test_saved_configs_keep_the_names_of_modules_that_are_not_imported():
    """Such as those of a user's loss, term and benchmark, when another command reads the run."""
    saved = versions.to_json(c.load(tiny()))
    saved["objective"] |= {"name": "my_loss", "terms": {"my_term": {"weight": 2.0}}}
    saved["eval"]["benchmarks"] = ("my_suite",)
    read = versions.from_json(saved)
    assert (read.objective.name, read.eval.benchmarks) == ("my_loss", ("my_suite",))
    assert versions.to_json(read) == saved
    saved["data"]["batch_size"] = -3
    with pytest.raises(UserError, match=r"saved config\.data\.batch_size is -3"):
        versions.from_json(saved)
    with pytest.raises(UserError, match=r"config\.objective\.name is 'my_loss'; expected one of"):
        c.load(tiny(objective__name="my_loss"))


def test_fields_that_must_not_change_when_continuing():
    names = set(fixed(c.load(tiny())))
    assert {"seed", "optim.lr", "data.batch_size", "data.mixture.main.recipe", "objective.name"} <= names
    assert not {name for name in names if name.startswith(("eval", "mesh", "checkpoint", "data.dir", "data.threads"))}
