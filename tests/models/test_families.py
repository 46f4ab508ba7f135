"""The table of families."""

import dataclasses
import sys

import pytest

from naturel_jax.models.families import family_of
from naturel_jax.models.presets import preset
from tests.helpers.documents import ROOT
from tests.helpers.processes import run


def test_towers_of_unknown_family_are_rejected():
    config = preset("tiny-clip")
    mixed = dataclasses.replace(config, text=preset("tiny-siglip").text)
    with pytest.raises(ValueError, match=r"no family \(clip, siglip, siglip2\) has these towers"):
        family_of(mixed)


def test_models_need_only_jax_flax_and_numpy():
    """They can be used on a machine without the data and tokenizer libraries."""
    others = "cv2 PIL tokenizers sentencepiece grain orbax.checkpoint tensorflow_datasets transformers torch"
    code = (
        "import sys, naturel_jax.models.presets; "
        f"print([name for name in {others.split()!r} if name in sys.modules], 'naturel_jax.data' in sys.modules)"
    )
    assert run([sys.executable, "-c", code], ROOT).strip() == "[] False"
