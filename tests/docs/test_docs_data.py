"""The examples of docs/data.md open, and the first command trains."""

import re
import shutil
from pathlib import Path

import pytest

from naturel_jax import config as c
from naturel_jax.configs import finetune
from naturel_jax.data import datasets
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.items.records import USUAL
from naturel_jax.training import run
from tests.helpers import record_files as files
from tests.helpers import worlds

TEXT = (worlds.ROOT / "docs/data.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files that the examples name."""
    folder = tmp_path_factory.mktemp("docs")
    files.write_jsonl(folder)
    files.write_csv(folder, "titles.csv")
    rows = (f"photos/{n:02}.jpg,caption {n}\n" for n in range(files.COUNT))
    (folder / "my.csv").write_text("filepath,caption\n" + "".join(rows))
    files.write_parquet(folder)
    for n, path in enumerate(sorted(folder.glob("part-*.parquet"))):
        path.rename(folder / f"rows-{n}.parquet")
    files.write_hf(folder)
    (folder / "shards").mkdir()
    files.write_webdataset(folder / "shards")
    files.write_tfds(folder)
    (folder / "album").mkdir()
    shutil.copytree(folder / "photos", folder / "album/photos")
    shutil.copy(folder / "my.csv", folder / "album/captions.csv")
    return folder


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_opens_and_fits_its_recipe(example, folder, monkeypatch):
    monkeypatch.chdir(folder)
    config = c.base()
    config.preset = "tiny-clip"
    exec(example, {"config": config, "c": c})
    data = c.load(config).data
    for part, source in zip(data.mixture.values(), datasets.open_sources(data), strict=True):
        assert len(source.items) == files.COUNT
        assert recipe(part.recipe).check(source.items)[0] >= 1
        assert source.read_image(3).startswith(b"\xff\xd8")


def test_page_lists_the_usual_names():
    for part, names in USUAL.items():
        row = next(line for line in TEXT.splitlines() if line.startswith("|") and f"`{part}`" in line.split("|")[1])
        assert re.findall(r"`(\w+)`", row.split("|")[2]) == list(names) or names == (part,)


@pytest.mark.slow
def test_first_command_trains(folder, monkeypatch):
    """With a tiny model in place of CLIP."""
    monkeypatch.chdir(folder)
    command = re.search(r"--config finetune:(\S+) --workdir (\S+)", TEXT)
    raw = finetune.get_config(command[1])
    raw.init, raw.preset, raw.duration, raw.data.batch_size = "", "tiny-clip", "2 steps", 8
    raw.optim.warmup, raw.tensorboard = "0 steps", False
    assert run.run(c.load(raw), folder / command[2]).scores == {}
    assert len(worlds.losses(folder / command[2])) >= 1
