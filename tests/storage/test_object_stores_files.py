"""Files that a command is given by name and that are in an object store: weights, hard images, user-defined
benchmarks, and what ``convert`` and ``mine`` write."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from etils import epath

import naturel_jax
from naturel_jax import config as c
from naturel_jax import convert, mine, weights
from naturel_jax.benchmarks import registry
from naturel_jax.data.batches.pipeline import make_pipeline
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.models.presets import preset
from naturel_jax.storage import object_folders, staging
from naturel_jax.storage.object_stores import Location
from naturel_jax.training import run
from naturel_jax.weights import export
from tests.helpers import benchmark_files as files
from tests.helpers import tiny_config
from tests.helpers.caption_groups import processor, source
from tests.helpers.model_files import assert_same, tiny
from tests.helpers.worlds import data_dir, parameters
from tfds_naturel.common.errors import UserError
from tfds_naturel.hard_images import mining


@pytest.fixture
def url(server, request) -> str:
    """A folder of the test's own."""
    return f"{server.url}/{re.sub('[^a-z_]', '_', request.node.name)}"


def put(folder: Path, url: str) -> None:
    object_folders.upload(object_folders.files_in(folder), folder, epath.Path(url))


def cached(tmp_path: Path, url: str) -> set[str]:
    """The names of the files that were copied from the folder ``url``."""
    folder = tmp_path / "cache/naturel_jax/data" / url.replace("://", "/")
    return set(object_folders.files_in(folder)) if folder.is_dir() else set()


# ---- One file -------------------------------------------------------------------------------------------------------


def test_one_object_is_copied_without_its_neighbours(url, server, tmp_path):
    for name in ("a.txt", "a.txt.old", "b.txt"):
        Location(f"{url}/{name}").put(name.encode())
    path = staging.stage_file(f"{url}/a.txt", str(tmp_path / "mine"))
    assert path.read_text() == "a.txt" and path.is_relative_to(tmp_path / "mine")
    assert [other.name for other in path.parent.iterdir()] == ["a.txt"]
    server.requests.clear()
    assert staging.stage_file(f"{url}/a.txt", str(tmp_path / "mine")) == path and len(server.requests) == 1
    Location(f"{url}/a.txt").put(b"other")
    assert staging.stage_file(f"{url}/a.txt", str(tmp_path / "mine")).read_text() == "other"
    assert staging.stage_file(tmp_path / "x") == tmp_path / "x"
    for absent in ("a.tx", "a.txt/x"):
        with pytest.raises(FileNotFoundError, match=rf"{url}/{absent}: no such object in the store"):
            staging.stage_file(f"{url}/{absent}")
    for bad in (server.url, f"{url}/"):
        with pytest.raises(UserError, match=f"^{bad}: names no object"):
            staging.stage_file(bad)


# ---- Weights --------------------------------------------------------------------------------------------------------


def test_weights_are_read_from_a_folder_in_a_store(url, tmp_path):
    export.save(tmp_path / "model", *tiny("tiny-clip"), form="hf")
    put(tmp_path / "model", url)
    Location(f"{url}/checkpoint-1/optimizer.pt").put(b"large")
    loaded = weights.load(url)
    assert_same(loaded.params, tiny("tiny-clip").params)
    assert loaded.processor == weights.load(str(tmp_path / "model")).processor
    assert cached(tmp_path, url) == set(object_folders.files_in(tmp_path / "model")), "not the folders in it"
    with pytest.raises(UserError, match=f"^{url}/none: no such folder in the store"):
        weights.load(f"{url}/none")


def test_weights_are_read_from_a_file_in_a_store(url, tmp_path):
    """With its config and tokenizer, which are beside it; without other weights."""
    export.save(tmp_path / "model", *tiny("tiny-clip"), form="openclip")
    put(tmp_path / "model", url)
    Location(f"{url}/other.safetensors").put(b"large")
    loaded = weights.load(f"{url}/open_clip_model.safetensors")
    assert_same(loaded.params, tiny("tiny-clip").params)
    assert loaded.processor == weights.load(str(tmp_path / "model")).processor
    names = cached(tmp_path, url)
    assert names <= set(object_folders.files_in(tmp_path / "model")) and "open_clip_config.json" in names
    named = weights.load(f"tiny-clip:{url}/open_clip_model.safetensors")
    assert_same(named.params, loaded.params)
    with pytest.raises(FileNotFoundError, match=rf"^{url}/absent\.pt: no such file or folder"):
        weights.load(f"{url}/absent.pt")


# ---- Convert --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["hf", "run"])
def test_convert_writes_to_a_store(form, url, server, tmp_path, capsys):
    """What makes the folder readable is uploaded last; nothing is left on the disk."""
    export.save(tmp_path / "model", *tiny("tiny-clip"), form="openclip")
    put(tmp_path, url)
    server.requests.clear()
    arguments = [f"{url}/model", f"{url}/out", "--to", form]
    convert.main(arguments)
    assert capsys.readouterr().out.startswith(f"wrote {url}/out\n")
    written = [request for request in server.requests if request.startswith(("POST", "PUT"))]
    assert written[-1].endswith({"hf": "out/config.json", "run": "out/checkpoints/0/manifest.json"}[form])
    assert not list((tmp_path / "cache/naturel_jax/scratch").iterdir())
    loaded = weights.load(f"run:{url}/out" if form == "run" else f"{url}/out")
    assert_same(loaded.params, tiny("tiny-clip").params)
    with pytest.raises(FileExistsError, match=f"^{url}/out exists; choose another name"):
        convert.main(arguments)


def test_conversion_that_fails_leaves_nothing_in_the_store(url, tmp_path):
    export.save(tmp_path / "model", *tiny("tiny-clip"), form="hf")
    with pytest.raises(UserError, match="big_vision's two-tower model is SigLIP"):
        convert.main([f"{tmp_path}/model", f"{url}/out", "--to", "big_vision"])
    assert not Location(url).objects()


@pytest.mark.slow
def test_what_was_written_to_a_store_is_verified(url, tmp_path, capsys):
    export.save(tmp_path / "model", *tiny("tiny-clip"), form="openclip")
    convert.main([f"{tmp_path}/model", f"{url}/out", "--verify"])
    assert f"{url}/out: logits within " in capsys.readouterr().out


@pytest.mark.slow
def test_api_reads_and_writes_models_and_benchmarks_in_a_store(url, tmp_path):
    export.save(tmp_path / "model", *tiny("tiny-clip"), form="hf")
    files.winoground(tmp_path / "files", items=2)
    put(tmp_path, url)
    model = naturel_jax.load(f"{url}/model")
    model.save(f"{url}/saved", "openclip")
    assert_same(weights.load(f"{url}/saved").params, tiny("tiny-clip").params)
    with pytest.raises(FileExistsError, match=f"^{url}/saved exists"):
        model.save(f"{url}/saved")
    here, there = (naturel_jax.evaluate(model, "winoground", f"{root}/files") for root in (tmp_path, url))
    assert here == there and set(here) >= {"winoground/text", "winoground/group"}


# ---- User-defined benchmarks -----------------------------------------------------------------------------------------


def test_own_benchmarks_are_read_from_a_store(url, tmp_path):
    """The images of a file are relative to its folder."""
    for n in range(2):
        files.write(tmp_path / f"own/photos/{n}.png", files.png(n))
        files.write(tmp_path / f"own/birds/{'jay' if n else 'wren'}/{n}.png", files.png(n))
    rows = [{"image": f"photos/{n}.png", "caption": "a", "negatives": "b"} for n in range(2)]
    files.write(tmp_path / "own/my.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    put(tmp_path / "own", url)
    names = [f"pairs:{url}/my.jsonl", f"b=classes:{url}/birds"]
    pairs, classes = registry.read(names, cache_dir=str(tmp_path / "mine"))
    assert (pairs.name, len(pairs.items), classes.name, len(classes.items)) == ("my", 2, "b", 2)
    assert [item.images[0].read() for item in pairs.items] == [files.png(0), files.png(1)]
    assert [item.tags["class"] for item in classes.items] == ["jay", "wren"]
    assert classes.items[0].images[0].read() == files.png(1)
    assert Path(pairs.items[0].images[0].key).is_relative_to(tmp_path / "mine")
    for name in (f"pairs:{url}/none/my.jsonl", f"classes:{url}/none"):
        with pytest.raises(UserError, match=rf"{url}/none: no such folder in the store"):
            registry.read([name])
    with pytest.raises(UserError, match=r"pairs:.*other\.jsonl: no such file"):
        registry.read([f"pairs:{url}/other.jsonl"])


# ---- Hard images ----------------------------------------------------------------------------------------------------


def test_hard_images_are_read_from_a_store(url, tmp_path):
    """They join the batch as those on a disk do; the copy is in ``config.data.cache_dir``."""
    local, path = tmp_path / "hard.parquet", f"{url}/hard.parquet"
    mining.save(local, [(f"image{n}", "Cat|on|Table", [f"image{(n + 1) % 16}"], ["swap"]) for n in range(16)])
    Location(path).upload(local)
    raw = c.base()
    raw.preset, raw.data.batch_size, raw.data.cache_dir = "tiny-clip", 8, str(tmp_path / "mine")
    raw.data.mixture.main = c.part("tiny", "single_pair", hard_images=path)

    def rows():
        mesh = make_mesh({"data": -1})
        pipeline = make_pipeline(c.load(raw), [source(16)], preset("tiny-clip"), processor("clip"), mesh)
        return pipeline.planner.plan(0).rows

    assert all(mined.item == (row.item + 1) % 16 for row, mined in zip(rows()[::2], rows()[1::2], strict=True))
    assert next((tmp_path / "mine").rglob("hard.parquet")).read_bytes() == local.read_bytes()
    Location(path).delete()
    with pytest.raises(OSError, match=rf"{path}: no such object in the store"):
        rows()
    Location(path).put(b"not Parquet")
    with pytest.raises(UserError, match=rf"mixture\.main\.hard_images is '{path}': .*expected a Parquet file"):
        rows()


def test_mining_reads_and_writes_in_a_store(url, tmp_path, capsys):
    """The same file as from and to a disk."""
    dataset = next((data_dir() / "naturel/tiny").iterdir())
    stored = f"{url}/naturel/tiny/{dataset.name}"
    put(dataset, stored)
    for place, out in ((dataset, tmp_path / "n.parquet"), (stored, f"{url}/n.parquet")):
        mine.main(["--dataset", str(place), "--out", str(out), "--count", "2"])
    assert Location(f"{url}/n.parquet").get()[0] == (tmp_path / "n.parquet").read_bytes()
    rows = pq.read_table(tmp_path / "n.parquet").num_rows
    assert rows > 0 and f"{url}/n.parquet: negatives for {rows:,} of" in capsys.readouterr().out
    assert set(Location(url).names()) == {"n.parquet", "n.parquet.json", "naturel"}


@pytest.mark.slow
@pytest.mark.parametrize("server", ["gs"], indirect=True)
def test_run_from_files_in_a_store_equals_one_from_a_disk(url, tmp_path):
    """Weights, hard images and a user-defined benchmark."""
    dataset = next((data_dir() / "naturel/tiny").iterdir())
    export.save(tmp_path / "files/model", *tiny("tiny-clip"), form="hf")
    mine.main(["--dataset", str(dataset), "--out", str(tmp_path / "files/hard.parquet")])
    for n in range(4):
        files.write(tmp_path / f"files/own/{n}.png", files.png(n))
    row = {"caption": "the cat is under the table", "negatives": "a dog on a chair"}
    rows = [json.dumps({"image": f"{n}.png", **row}) for n in range(4)]
    files.write(tmp_path / "files/own/my.jsonl", "\n".join([*rows, ""]).encode())
    put(tmp_path / "files", url)

    def scores(place: object, workdir: str) -> dict[str, float]:
        raw = tiny_config.get_config()
        raw.init, raw.preset = f"{place}/model", ""
        raw.data.dir = str(data_dir())
        raw.data.mixture.main = c.part("naturel/tiny", "single_pair", hard_images=f"{place}/hard.parquet")
        raw.eval.benchmarks, raw.eval.during = (f"pairs:{place}/own/my.jsonl",), {}
        raw.duration, raw.checkpoint.every, raw.optim.warmup = "1 steps", "1 steps", "0 steps"
        return run.run(c.load(raw), tmp_path / workdir).scores

    here, there = scores(tmp_path / "files", "here"), scores(url, "there")
    assert here == there and here.keys() == {"my/accuracy"}
    trained, again = parameters(tmp_path / "here"), parameters(tmp_path / "there")
    for path, leaf in trained.items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)
