"""Sections of settings: types, unknown fields, and the nearest field name."""

import dataclasses
from collections.abc import Mapping
from unittest import mock

import pytest

from naturel_jax.config import Config, settings
from naturel_jax.config.settings import at_least, parse, section, setting
from tfds_naturel.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = setting(2, "how many", at_least(1))
    pair: tuple[float, float] = setting((0.5, 1.0), "two numbers")


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = section(Inner)
    several: Mapping[str, Inner] = setting({}, "more of them")
    rate: float = setting(1.0, "a rate", may_change=True)
    on: bool = setting(False, "whether")


def test_config_dict_round_trip():
    raw = settings.to_config_dict(Outer(several={"a": Inner(size=3)}))
    raw.inner.size = 5
    assert parse(Outer, raw) == Outer(inner=Inner(size=5), several={"a": Inner(size=3)})


def test_integers_become_floats_and_lists_become_tuples():
    outer = parse(Outer, {"rate": 2, "inner": {"pair": [1, 2]}})
    assert outer == Outer(rate=2.0, inner=Inner(pair=(1.0, 2.0)))
    assert type(outer.rate) is float and type(outer.inner.pair[0]) is float


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"rate": "fast"}, r"config\.rate is 'fast'; expected a number \(a rate\)"),
        ({"rate": True}, r"config\.rate is True; expected a number"),
        ({"rate": 10**400}, r"config\.rate is 10{300}"),
        ({"on": 1}, r"config\.on is 1; expected True or False"),
        ({"inner": {"size": 2.5}}, r"config\.inner\.size is 2\.5; expected a number of at least 1"),
        ({"inner": {"size": 0}}, r"config\.inner\.size is 0"),
        ({"inner": {"pair": (1.0,)}}, r"config\.inner\.pair is \(1\.0,\)"),
        ({"inner": 3}, r"config\.inner is 3; expected a section with fields"),
        ({"several": {1: {}}}, r"config\.several has the name 1; expected a string"),
        ({"several": {"a": {"size": -1}}}, r"config\.several\.a\.size is -1"),
        ({"several": {"a": {"sizes": 1}}}, r"config\.several\.a has no field 'sizes'; did you mean 'size'"),
        ({"ratio": 1}, r"config has no field 'ratio'; did you mean 'rate'"),
    ],
)
def test_invalid_values_are_rejected_by_field_name(raw, expected):
    with pytest.raises(UserError, match=expected):
        parse(Outer, raw)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        *((name, "optim.lr") for name in ("optim.learning_rate", "learning_rate", "optim.lrr", "optm.lr")),
        *(("optim.beta1", "optim.b1"), ("batch_size", "data.batch_size"), ("data.batchsize", "data.batch_size")),
        ("objective.smoothing", "objective.label_smoothing"),
    ],
)
def test_nearest_field_by_spelling_or_synonym(name, nearest):
    assert settings.nearest(name, dict(settings.meanings(Config))) == f"did you mean {nearest!r}?"


def test_every_config_field_has_a_description():
    assert all(len(meaning) > 3 for meaning in dict(settings.meanings(Config)).values())


def test_key_of_accepts_entries_added_by_a_user():
    from naturel_jax.losses.objectives import OBJECTIVES

    allowed = settings.key_of("naturel_jax.losses.objectives:OBJECTIVES")
    assert not allowed.test("mine")
    with mock.patch.dict(OBJECTIVES, mine=OBJECTIVES["softmax"]):
        assert allowed.test("mine") and "'mine'" in allowed.expected()


def test_an_override_may_be_two_words():
    words = ["--config", "a.py", "--config.a", "-1", "-config.b", "x y", "--config.c=2", "--config.d", "--json", "e"]
    joined = ["--config=a.py", "--config.a=-1", "-config.b=x y", "--config.c=2", "--config.d", "--json", "e"]
    assert settings.joined(words) == joined
