"""Sections of settings: types, unknown fields, and the nearest name."""

import dataclasses
from collections.abc import Mapping

import pytest

from naturel_jax import settings
from naturel_jax.config import Config
from naturel_jax.settings import at_least, parse, section, setting
from tfds_naturel.errors import UserError


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


def test_a_config_dict_and_back():
    raw = settings.to_config_dict(Outer(several={"a": Inner(size=3)}))
    raw.inner.size = 5
    assert parse(Outer, raw) == Outer(inner=Inner(size=5), several={"a": Inner(size=3)})


def test_whole_numbers_are_numbers_and_lists_are_tuples():
    outer = parse(Outer, {"rate": 2, "inner": {"pair": [1, 2]}})
    assert outer == Outer(rate=2.0, inner=Inner(pair=(1.0, 2.0)))
    assert type(outer.rate) is float and type(outer.inner.pair[0]) is float


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"rate": "fast"}, r"config\.rate is 'fast'; expected a number \(a rate\)"),
        ({"rate": True}, r"config\.rate is True; expected a number"),
        ({"on": 1}, r"config\.on is 1; expected True or False"),
        ({"inner": {"size": 2.5}}, r"config\.inner\.size is 2\.5; expected a number of at least 1"),
        ({"inner": {"size": 0}}, r"config\.inner\.size is 0"),
        ({"inner": {"pair": (1.0,)}}, r"config\.inner\.pair is \(1\.0,\)"),
        ({"inner": 3}, r"config\.inner is 3; expected a section with fields"),
        ({"several": {"a": {"size": -1}}}, r"config\.several\.a\.size is -1"),
        ({"several": {"a": {"sizes": 1}}}, r"config\.several\.a has no field 'sizes'; did you mean 'size'"),
        ({"ratio": 1}, r"config has no field 'ratio'; did you mean 'rate'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(raw, expected):
    with pytest.raises(UserError, match=expected):
        parse(Outer, raw)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("optim.learning_rate", "optim.lr"),
        ("learning_rate", "optim.lr"),
        ("optim.lrr", "optim.lr"),
        ("optim.beta1", "optim.b1"),
        ("batch_size", "data.batch_size"),
        ("data.batchsize", "data.batch_size"),
        ("objective.smoothing", "objective.label_smoothing"),
    ],
)
def test_the_nearest_field_is_spelled_alike_or_means_it(name, nearest):
    assert settings.nearest(name, dict(settings.meanings(Config))) == f"did you mean {nearest!r}?"


def test_every_field_of_the_config_has_a_meaning():
    assert all(len(meaning) > 3 for meaning in dict(settings.meanings(Config)).values())


def test_keys_of_a_table_include_what_a_user_added():
    from naturel_jax.objectives import OBJECTIVES

    allowed = settings.key_of("naturel_jax.objectives:OBJECTIVES")
    assert not allowed.test("mine")
    OBJECTIVES["mine"] = OBJECTIVES["softmax"]
    try:
        assert allowed.test("mine") and "'mine'" in allowed.expected()
    finally:
        del OBJECTIVES["mine"]
