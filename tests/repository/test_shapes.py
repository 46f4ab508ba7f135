"""A name that ends in shape letters, such as ``zimg_ID``, stands in a module whose docstring says what they mean."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [path for package in ("naturel_jax", "tfds_naturel") for path in sorted((ROOT / package).rglob("*.py"))]


def undescribed(source: str) -> set[str]:
    tree = ast.parse(source)
    names = [getattr(node, "id", getattr(node, "arg", None)) for node in ast.walk(tree)]
    suffixes = [re.fullmatch(r"[a-z][a-z0-9_]*_([A-Z]{1,5})\d?", name) for name in names if isinstance(name, str)]
    used = {letter for match in suffixes if match for letter in match[1]}
    return used - set(re.findall(r"\b[A-Z]\b", (ast.get_docstring(tree) or "").partition("Shape letter")[2]))


def test_a_letter_without_a_meaning_is_found():
    source = '"""Shape letters: I images."""\n\ndef unit(z_ID): ...\n'
    assert undescribed(source) == {"D"} and not undescribed(source.replace("images.", "images, D embedding."))


@pytest.mark.parametrize("package", ["naturel_jax", "tfds_naturel"])
def test_modules_list_the_shape_letters_that_they_use(package):
    missing = {str(path.relative_to(ROOT)): undescribed(path.read_text()) for path in MODULES if package in path.parts}
    assert not {path: letters for path, letters in missing.items() if letters}
