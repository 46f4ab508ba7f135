"""Which hard images the batches of a run have while these are mined again."""

import threading
from pathlib import Path

import absl.flags
import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from naturel_jax import config as c
from naturel_jax import storage
from naturel_jax.data.batches import remined
from naturel_jax.data.batches.pipeline import Pipeline, make_pipeline
from naturel_jax.data.items.items import Source
from naturel_jax.models.presets import preset
from naturel_jax.storage import once
from tests.helpers.caption_groups import items, mesh, processor
from tests.helpers.image_files import encoded
from tfds_naturel.hard_images import mining

IMAGES, STEPS, EVERY = 16, 13, 3
MINED_AT = [0] * 6 + [3] * 3 + [6] * 3 + [9]  # the checkpoint whose hard images a step uses, by hand


def grey(level: int) -> bytes:
    return encoded(Image.new("L", (40, 40), level).convert("RGB"))


def levels() -> Source:
    """Images whose grey says which they are: ten times their number."""
    files = [grey(10 * n) for n in range(IMAGES)]
    return Source(items(IMAGES), files.__getitem__)


def write(path, shift: int) -> None:
    """As the one hard image of each image, the one ``shift`` numbers further."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [(f"image{n}", "", [f"image{(n + shift) % IMAGES}"], [mining.NEAREST]) for n in range(IMAGES)]
    mining.save(path, rows)
    storage.write_json(epath.Path(f"{path}.json"), {"xxh3": once.checksum(Path(path))})


def pipeline(first, every: int = EVERY, **reading) -> Pipeline:
    raw = c.base()
    raw.preset, raw.seed, raw.data.batch_size = "tiny-clip", 3, 8
    raw.data.update(reading)
    raw.data.mixture.main = c.part("tiny", "single_pair", hard_images=str(first), hard_images_every=every)
    return make_pipeline(c.load(raw), [levels()], preset("tiny-clip"), processor("clip"), mesh(1))


def shifts(batch) -> set[int]:
    """How many numbers further each hard image is than the image before it, by their pixels."""
    number_I = np.rint(np.asarray(batch.images).mean(axis=(1, 2, 3)) / 10).astype(int)
    assert len(set(number_I[::2])) == 8, "eight images, each with a hard one"
    return set(((number_I[1::2] - number_I[::2]) % IMAGES).tolist())


@pytest.fixture
def mined(tmp_path):
    """(the file that the run begins with, its workdir with the others); what is mined at step s is shifted by s + 1."""
    write(tmp_path / "first.parquet", 1)
    for step in (3, 6, 9):
        write(remined.file(tmp_path / "run", "main", step), step + 1)
    return tmp_path / "first.parquet", tmp_path / "run"


@pytest.mark.parametrize(
    ("start", "reading"),
    [(0, {"threads": 4}), (7, {"threads": 1}), pytest.param(5, {"workers": 2}, marks=pytest.mark.slow)],
    ids=str,
)
def test_a_step_has_the_hard_images_of_the_last_checkpoint_but_one(start, reading, mined):
    """However far ahead it is read. The rest of a batch is that of a run with this file only."""
    absl.flags.FLAGS.mark_as_parsed()
    first, workdir = mined
    batches = list(pipeline(first, **reading).batches(start, STEPS, workdir))
    assert [shifts(batch) for batch in batches] == [{at + 1} for at in MINED_AT[start:]]
    for step, batch in enumerate(batches, start):
        file = remined.file(workdir, "main", MINED_AT[step]) if MINED_AT[step] else first
        (alone,) = pipeline(file, every=0).batches(step, step + 1)
        jax.tree.map(np.testing.assert_array_equal, batch, alone)


def test_two_parts_go_on_at_their_own_steps():
    parts = [remined.Remined(n, "", every, lambda path: pytest.fail()) for n, every in enumerate((3, 4))]
    starts = [steps.start for steps in remined.stretches(1, 18, parts)]
    assert starts == [1, 6, 8, 9, 12, 15, 16], "from 6 on, the multiples of 3; from 8 on, those of 4"
    assert [*map(list, remined.stretches(12, 15, parts))] == [[12, 13, 14]]


def test_a_file_that_is_not_there_yet_is_waited_for(mined, caplog):
    first, workdir = mined
    missing = remined.file(workdir, "main", 6)
    missing.with_name("6.parquet.json").unlink()  # whoever mines it has not ended
    batches, later = pipeline(first).batches(6, STEPS, workdir), threading.Timer(1.0, write, (missing, 7))
    with caplog.at_level("INFO", "naturel_jax"):
        assert [shifts(next(batches)) for _ in range(3)] == [{4}] * 3 and not caplog.text
        later.start()
        assert shifts(next(batches)) == {7}
    (message,) = [record.message for record in caplog.records if "waiting" in record.message]
    assert message == f"waiting for {missing}, which naturel-mine --watch {workdir} writes"


def test_memory_is_planned_before_anything_is_mined_again(mined):
    """With what the run begins with."""
    assert pipeline(mined[0]).largest_shapes(STEPS) == pipeline(mined[0], every=0).largest_shapes(STEPS)
