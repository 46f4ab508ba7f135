"""Durations: what they mean in steps, and what is refused."""

import pytest

from naturel_jax.config import base, duration


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("500 steps", 500),
        ("1 step", 1),
        ("0 steps", 0),
        ("2 epochs", 200),  # 100 batches of 64 in 6,400 examples
        ("0.255 epochs", 26),  # 25.5 batches, rounded up
        ("1e6 examples", 15625),  # 1,000,000 / 64
        ("65 examples", 2),
        ("5%", 50),
        ("0.01%", 1),
        (" 3.0 steps ", 3),
    ],
)
def test_durations_in_steps(text, steps):
    assert duration(text, batch_size=64, examples=6400, total=1000, field="duration") == steps


def test_whole_numbers_of_steps_are_not_rounded_up():
    assert duration("700 examples", batch_size=100, examples=1, field="duration") == 7
    assert duration("7%", batch_size=1, examples=1, total=300, field="duration") == 21


@pytest.mark.parametrize("text", ["", "500", "five steps", "-3 steps", "5 minutes", "1.2.3 steps", ". steps", 500])
def test_other_durations_are_refused_with_the_field_and_what_is_expected(text):
    with pytest.raises(ValueError, match=r"config\.eval\.every is .*expected a number and a unit: '500 steps'"):
        duration(text, batch_size=64, examples=6400, total=1000, field="eval.every")


def test_a_run_has_no_duration_in_percent_of_itself():
    with pytest.raises(ValueError, match=r"config\.duration is '5%'"):
        duration("5%", batch_size=64, examples=6400, field="duration")


def test_the_defaults_are_the_published_negclip_recipe():
    """arXiv 2210.01936; betas, eps and decay are OpenCLIP's defaults for ViT."""
    optim = base().optim
    assert (optim.lr, optim.b1, optim.b2, optim.eps, optim.weight_decay) == (1e-6, 0.9, 0.98, 1e-6, 0.2)
    assert optim.warmup == "50 steps" and optim.schedule == "cosine"
