"""Examples of an evaluation: which items, and their images."""

import base64
import io
import itertools

import numpy as np
import pytest
from etils import epath
from PIL import Image as PilImage

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric
from naturel_jax.evaluators import examples, scoring
from tests.helpers import benchmark_files as files
from tfds_naturel.common.errors import UserError

BOX = (10, 5, 40, 45)


def unreadable() -> bytes:
    raise OSError("gone")


def first(items, matrices) -> dict[str, np.ndarray]:
    return {"right": np.array([float(matrix[0, 0] > matrix[0, 1:].max()) for matrix in matrices])}


def save(out, name: str, number: int = 16) -> None:
    """Of ``number`` items, those with even numbers are right; item 3 has an image that cannot be read, item 4 too many
    captions."""
    items, matrices = [], []
    for n in range(number):
        image = Image(f"i{n}", unreadable if n == 3 else lambda n=n: files.png(n, (192, 96)), BOX if n == 2 else None)
        captions = (f"a cat {n}", *(f"a dog {n} {k}" for k in range(9 if n == 4 else 1)))
        items.append(Item(f"{n}", (image,), captions))
        matrices.append(np.array([[0.25 if n % 2 == 0 else -0.25, *[0.0] * (len(captions) - 1)]]))
    metrics = (Metric(f"{name}/all", "right"),)
    benchmark = Benchmark(name, tuple(items), first, metrics, true_captions=1)
    norms, shown = {text: 1.0 for item in items for text in item.captions}, examples.per_benchmark(2)
    scoring.save(out, "CLIP", benchmark, "f", (items, matrices, []), norms, shown=shown)


def test_half_are_right_and_benchmarks_take_turns(tmp_path):
    for name in ("a", "b"):
        save(tmp_path, name)
    found = examples.load(epath.Path(tmp_path / "CLIP"))
    assert [(e.benchmark, e.right) for e in found] == list(itertools.product("ab", (True, False))) * 6
    assert all(example.right == (int(example.id) % 2 == 0) for example in found)
    assert not {"3", "4"} & {example.id for example in found}
    ids = {name: [example.id for example in found if example.benchmark == name] for name in "ab"}
    assert ids["a"] == ids["b"] != sorted(ids["a"], key=int), "by id, not in the order of the benchmark"


def test_an_example_has_its_captions_cosines_and_a_small_crop_of_its_image(tmp_path):
    save(tmp_path, "a", number=3)
    two, zero, one = sorted(examples.load(epath.Path(tmp_path / "CLIP")), key=lambda e: (-e.right, -int(e.id)))
    assert one == examples.Example("a", "1", False, one.images, ("a cat 1", "a dog 1 0"), (-0.25, 0.0), 1)
    sizes = []
    for example in (zero, two):
        kind, _, data = example.images[0].partition(",")
        with PilImage.open(io.BytesIO(base64.b64decode(data))) as image:
            sizes.append((kind, image.size))
    crop = (BOX[2] - BOX[0], BOX[3] - BOX[1])
    assert sizes == [("data:image/jpeg;base64", (128, 64)), ("data:image/png;base64", crop)]


def test_damaged_examples_are_refused(tmp_path):
    save(tmp_path, "a")
    path = epath.Path(tmp_path / "CLIP/a") / examples.FILE
    sound = examples.Example("a", "1", True, ("data:",), ("a cat",), (0.5,), 1)._asdict()
    changes = ({"id": 1}, {"cosines": ["a"]}, {"cosines": [10**400]}, {"captions": [None]}, {"true_captions": "a"})
    for row in ({"id": "1"}, *(sound | change for change in changes)):
        storage.write_json(path, {"examples": [row]})
        with pytest.raises(UserError, match=r"examples\.json: not the examples of an evaluation"):
            examples.load(epath.Path(tmp_path / "CLIP"))
