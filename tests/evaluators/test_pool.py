"""Pools: every source is embedded once, in clip-retrieval's layout; bad images are listed; an index finds the nearest.

Shape letters: N images, D embedding.
"""

import json
import os
import shutil

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.config import Fields
from naturel_jax.devices.processes import Share
from naturel_jax.evaluators import embed
from naturel_jax.evaluators.pool import embedded, embedding, files, images, index, mining
from naturel_jax.models.two_tower import Model
from tests.helpers import record_files as records
from tests.helpers.model_files import tiny
from tests.helpers.pools import write_pool
from tfds_naturel.common.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")

FORMATS = [name for name in records.FORMATS if not name.startswith("tf")]  # test_mining.py has one in TFDS
MADE_FROM, WHOLE = {"model": "tiny"}, Share()


@pytest.fixture(scope="module")
def encoder() -> embed.Encoder:
    config, _, processor = tiny("tiny-clip")
    return embed.Encoder(Model(config), processor, batch_size=8, pixel_cache_bytes=0)


@pytest.fixture(scope="module")
def expected(encoder) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [N, D] of the images, and of their first captions."""
    params = tiny("tiny-clip").params
    pictures = [Image(str(n), records.image(n).__bytes__) for n in range(records.COUNT)]
    captions = [records.positives(n)[0] for n in range(records.COUNT)]
    return encoder.images(params, pictures)[0], encoder.captions(params, captions)


def run(encoder, source, out, rows=5, share=WHOLE, fields=None, dtype="float16") -> tuple[int, int]:
    """Embeds the source in parts of ``rows``; returns the numbers of images and bad rows."""
    pool = images.open_pool(source, "data", "train", Fields(**(fields or {})), rows)
    output = files.Output(epath.Path(out), pool, MADE_FROM | {"dtype": dtype})
    return embedding.embed(pool, embedding.Embedder(encoder, tiny("tiny-clip").params, dtype), output, share)


def content(out) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def concatenated(out, kind) -> np.ndarray:
    """As embedding-reader does: the files of a folder in the order of their names."""
    return np.concatenate([np.load(path) for path in sorted((out / kind).glob("*.npy"))])


def test_images_of_any_aspect_ratio_are_streamed():
    config, params, processor = tiny("tiny-naflex")
    encoder = embed.Encoder(Model(config), processor, batch_size=8)
    pictures = [Image(str(n), records.image(n).__bytes__) for n in range(9)] + [Image("bad", b"".__bytes__)]
    streamed, reasons = zip(*encoder.stream(params, pictures), strict=True)
    np.testing.assert_array_equal(streamed[:9], encoder.images(params, pictures[:9])[0])
    assert [bool(reason) for reason in reasons] == [False] * 9 + [True]


def metadata(out) -> list[dict[str, str]]:
    paths = sorted((out / "metadata").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(path) for path in paths]).to_pylist()


@pytest.mark.parametrize("prefix", FORMATS)
def test_every_source_is_embedded_in_its_order(prefix, encoder, expected, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    source, fields = records.FORMATS[prefix][0](tmp_path), records.FORMATS[prefix][1]
    assert run(encoder, source, out, fields=fields) == (records.COUNT, 0)
    for kind, z_ND in zip(("img_emb", "text_emb"), expected, strict=True):
        found = concatenated(out, kind)
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, z_ND, atol=6e-4)
    rows = metadata(out)
    assert [row["caption"] for row in rows] == [records.positives(n)[0] for n in range(records.COUNT)]
    assert len({row["image_path"] for row in rows}) == records.COUNT
    shards = {"webdataset": [8, 8, 8], "parquet": [12, 12], "hf": [12, 12]}.get(prefix, [24])
    stems = [f"{s:04}" + (f"_{k:04}" if k else "") for s, count in enumerate(shards) for k in range(-(-count // 5))]
    assert sorted(path.name for path in (out / "img_emb").iterdir()) == [f"img_emb_{stem}.npy" for stem in stems]
    assert sorted(path.name for path in (out / "metadata").iterdir()) == [f"metadata_{s}.parquet" for s in stems]


@pytest.mark.parametrize("prefix", ["webdataset", "csv"])
def test_shares_divide_shards_or_else_their_parts(prefix, encoder, tmp_path):
    source, fields = records.FORMATS[prefix][0](tmp_path), records.FORMATS[prefix][1]
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    whole.mkdir(), shared.mkdir()
    run(encoder, source, whole, fields=fields)
    counts = [run(encoder, source, shared, share=Share(n, 2), fields=fields)[0] for n in (1, 0)]
    assert sum(counts) == records.COUNT and min(counts) > 0
    found, once = content(shared), content(whole)
    assert found.keys() == once.keys()
    for name in (name for name in found if name.endswith(".npy")):  # rounding depends on the place in a batch
        np.testing.assert_allclose(np.load(shared / name), np.load(whole / name), atol=1e-3)


def test_interrupted_write_leaves_whole_parts_which_are_not_embedded_again(encoder, expected, tmp_path, monkeypatch):
    source, out, written = records.write_webdataset(tmp_path), tmp_path / "out", []
    out.mkdir()
    write = storage.write

    def fail(path, data):
        if path.name == "metadata_0001.parquet":
            raise OSError(28, "No space left on device")
        write(path, data)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(storage, "write", fail)
        run(encoder, source, out)
    before = content(out)
    assert {name for name in before if "done" in name} == {"done/0000.json", "done/0000_0001.json"}
    monkeypatch.setattr(storage, "write", lambda path, data: (written.append(path.name), write(path, data)))
    assert run(encoder, source, out) == (16, 0) and run(encoder, source, out) == (0, 0)
    assert "0001.json" in written and len(written) == len(set(written)), "each file once"
    assert not {"0000.json", "0000_0001.json"} & set(written)
    first = [name for name in before if "_0000" in name]
    assert len(first) == 6 and all(content(out)[name] == before[name] for name in first)
    np.testing.assert_allclose(concatenated(out, "img_emb"), expected[0], atol=6e-4)


def test_bad_images_are_listed_and_captions_are_optional(encoder, expected, tmp_path):
    photos, out = records.photos(tmp_path), tmp_path / "out"
    out.mkdir()
    (tmp_path / photos[3]).write_bytes(b"no image")
    (tmp_path / photos[4]).unlink()
    rows = [{"image": path, "caption": "a cup" if n else ""} for n, path in enumerate(photos[:6])]
    lines = [*map(json.dumps, rows), "not json", json.dumps({"image": "../x.jpg"}), json.dumps({"caption": "y"})]
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    assert run(encoder, f"jsonl:{tmp_path}/my.jsonl", out, rows=4) == (4, 5)
    np.testing.assert_allclose(concatenated(out, "img_emb"), expected[0][[0, 1, 2, 5]], atol=6e-4)
    text_ND = concatenated(out, "text_emb")
    assert not text_ND[0].any() and text_ND[1:].any(axis=1).all(), "the first image has no caption"
    bad = [row for path in sorted((out / "done").iterdir()) for row in json.loads(path.read_text())["bad"]]
    assert [row["name"] for row in bad] == [*photos[3:5], "my.jsonl:6", "../x.jpg", "my.jsonl:8"]
    reasons = ["not a readable image", "No such file", "not JSON", "is outside", "no field 'image'"]
    assert all(reason in row["reason"] for reason, row in zip(reasons, bad, strict=True))
    assert files.count(epath.Path(out)) == (3, 4, 5), "the last part has no image, and therefore no other file"
    assert len(embedded.EmbeddedPool(out)) == 4


def test_images_without_any_caption_and_a_damaged_shard(encoder, tmp_path):
    records.photos(tmp_path)
    for name in ("folder", "shards"):
        (tmp_path / name).mkdir()
    assert run(encoder, f"folder:{tmp_path}/photos", tmp_path / "folder", rows=99) == (records.COUNT, 0)
    assert metadata(tmp_path / "folder")[1] == {"image_path": "01.jpg"}
    rows = [{"image": records.image(n), "text": "a cup"} for n in range(20)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10, use_dictionary=False)
    data, place = bytearray(path.read_bytes()), pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data[place : place + 20] = bytes(20)  # a page without a header
    path.write_bytes(data)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    assert run(encoder, f"parquet:{tmp_path}/*.parquet", tmp_path / "shards") == (30, 1)
    (bad,) = json.loads((tmp_path / "shards/done/0000_0002.json").read_text())["bad"]
    assert bad["name"] == "a.parquet:10" and "a.parquet" in bad["reason"] and "left out" in bad["reason"]


def test_folder_of_other_embeddings_is_refused(encoder, tmp_path):
    """Once a part is done: of what was asked for before, nothing may be left."""
    source, out = records.write_jsonl(tmp_path), tmp_path / "out"
    out.mkdir()
    pool = images.open_pool(source, "data", "train", Fields(), 5)
    late = files.Output(epath.Path(out), pool, MADE_FROM | {"dtype": "float32"})
    run(encoder, source, out, rows=99)
    with pytest.raises(UserError, match="rows is 99, now 5; choose another --out"):
        late.write(images.Part(0, 0), {"image_path": ["a"]}, {"img_emb": np.zeros((1, 2))}, [])
    with pytest.raises(UserError, match=r"pool\.json: dtype is 'float16', now 'float32'; choose another --out"):
        run(encoder, source, out, rows=99, dtype="float32")
    pool = images.open_pool(source, "data", "train", Fields(), 99)
    with pytest.raises(UserError, match="rows is 99, now 100"):
        files.Output(epath.Path(out), images.Pool(pool.table, pool.chosen, 100), {})


def test_edit_that_keeps_the_size_of_a_table_is_noticed(tmp_path):
    source, table = records.write_jsonl(tmp_path), tmp_path / "my.jsonl"
    pool = images.open_pool(source, "data", "train", Fields(), 99)
    before, content = pool.digest(), table.read_bytes()
    table.write_bytes(content.replace(b"0", b"1", 1))
    assert pool.digest() != before
    table.write_bytes(content)
    assert pool.digest() == before


KINDS = {  # images, budget in bytes, kind, least recall
    "exact": (1500, 1 << 30, "Flat", 1.0),
    "graph": (1500, 1 << 21, "HNSW32", 0.95),
    "lists": (3000, 1 << 19, "IVF16,PQ4", 0.9),
    "lists, merged": (3000, 1 << 17, "IVF4,PQ4", 0.9),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if "lists" in n else n for n in KINDS])
def test_index_finds_the_nearest(name, tmp_path, monkeypatch):
    faiss.omp_set_num_threads(1)  # on a busy machine, more wait for the slowest
    if name == "graph":
        monkeypatch.setattr(index, "EXACT", 1000)
    count, budget, kind, least = KINDS[name]
    z_ND = write_pool(tmp_path, count)
    pool = embedded.EmbeddedPool(tmp_path)
    found = index.load_or_build(pool, budget)
    assert found.about["kind"] == kind and found.about["recall@10"] >= least
    queries = np.random.default_rng(1).choice(count, 50, replace=False)
    rows, cosines = found.search(pool[queries], 11)
    exact = np.argsort(-(z_ND[queries] @ z_ND.T), axis=1)[:, :11]
    assert np.mean([len(set(a) & set(b)) / 11 for a, b in zip(rows.tolist(), exact.tolist(), strict=True)]) >= least
    np.testing.assert_allclose(cosines, np.einsum("qkd,qd->qk", z_ND[rows], z_ND[queries]), atol=1e-3)
    build, built = index.build, []
    monkeypatch.setattr(index, "build", lambda *arguments: (built.append(1), build(*arguments)))
    again, _ = index.load_or_build(embedded.EmbeddedPool(tmp_path), budget).search(pool[queries], 11)
    np.testing.assert_array_equal(again, rows)
    np.save(pool.files[0], -z_ND[:700].astype(np.float16))
    assert not built and index.load_or_build(embedded.EmbeddedPool(tmp_path), budget) and built, "of other embeddings"


def damage(path, change) -> None:
    """Changes a file, and leaves its times as they were."""
    times = path.stat()
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_index_that_is_damaged_or_was_copied_is_made_again(tmp_path, monkeypatch):
    write_pool(tmp_path / "pool", 300)
    pool, built, build = embedded.EmbeddedPool(tmp_path / "pool"), [], index.build
    monkeypatch.setattr(index, "build", lambda *arguments: (built.append(1), build(*arguments)))
    sound = index.load_or_build(pool, 1 << 30).search(pool[np.arange(9)], 5)[0]
    for name, change in ((index.NAME, lambda data: data[:-1] + b"?"), (f"{index.NAME}.json", lambda data: b"[]")):
        damage(tmp_path / "pool" / name, change)
        np.testing.assert_array_equal(index.load_or_build(pool, 1 << 30).search(pool[np.arange(9)], 5)[0], sound)
    assert len(built) == 3
    shutil.copytree(tmp_path / "pool", tmp_path / "copy")  # with the times of its files
    index.load_or_build(embedded.EmbeddedPool(tmp_path / "copy"), 1 << 30)
    assert len(built) == 4


def test_index_is_not_written_to_where_a_link_leads(tmp_path):
    write_pool(tmp_path / "pool", 50)
    (tmp_path / "other").write_text("kept")
    (tmp_path / "pool" / index.NAME).symlink_to(tmp_path / "other")
    index.load_or_build(embedded.EmbeddedPool(tmp_path / "pool"), 1 << 30)
    assert (tmp_path / "other").read_text() == "kept"


HOSTILE_ARRAYS = {
    "of columns": lambda z_ND: np.asfortranarray(z_ND),
    "not finite": lambda z_ND: np.where(np.eye(*z_ND.shape) > 0, np.nan, z_ND),
    "of text": lambda z_ND: z_ND.astype(str),
    "without columns": lambda z_ND: z_ND[:, :0],
}


@pytest.mark.parametrize("array", HOSTILE_ARRAYS)
def test_arrays_that_are_no_embeddings_are_refused(array, tmp_path):
    z_ND = write_pool(tmp_path, 40)
    path = tmp_path / "img_emb/img_emb_0000.npy"
    np.save(path, HOSTILE_ARRAYS[array](z_ND))
    with pytest.raises(UserError, match=rf"^{path}: an (array of .*; expected|embedding is not finite)"):
        list(embedded.EmbeddedPool(tmp_path).blocks(8))


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(99), b"\x93NUMPY\x01\x00\x09\x00((((((((\n"])
def test_files_that_are_no_arrays_are_refused(content, tmp_path):
    write_pool(tmp_path, 40)
    (tmp_path / "img_emb/img_emb_0000.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"img_emb_0000\.npy: not an array of embeddings \("):
        embedded.EmbeddedPool(tmp_path)


def test_names_of_a_pool_are_read_in_bounded_memory_and_belong_to_their_embeddings(tmp_path):
    write_pool(tmp_path, 40)
    path = tmp_path / "metadata/metadata_0000.parquet"
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 40, pa.int32()), pa.array(["a" * 30_000_000]))
    for column, reason in ((long, "unpack to 30,000,004 bytes"), ([None] * 40, "an image_path is None, expected")):
        pq.write_table(pa.table({"image_path": column}), path, compression="zstd")
        with pytest.raises(UserError, match=rf"^{path}: .*{reason}"):
            list(embedded.EmbeddedPool(tmp_path).names())
    path.rename(path.with_name("metadata_0001.parquet"))
    with pytest.raises(UserError, match="differ in their files or rows"):
        embedded.EmbeddedPool(tmp_path)


def test_names_may_take_few_bytes(tmp_path):
    for kind in ("img_emb", "metadata"):
        (tmp_path / kind).mkdir()
    np.save(tmp_path / "img_emb/img_emb_0.npy", np.ones((500_000, 1), np.float16))
    names = pa.array([f"{n:09}" for n in range(500_000)])
    pq.write_table(pa.table({"image_path": names}), tmp_path / "metadata/metadata_0.parquet", compression="zstd")
    assert sum(1 for _ in embedded.EmbeddedPool(tmp_path).names()) == 500_000


def test_what_is_done_of_a_pool_is_checked(encoder, tmp_path):
    """A number of rows below that of a part would end its shard."""
    source, out = records.write_jsonl(tmp_path), tmp_path / "out"
    out.mkdir()
    run(encoder, source, out)
    _, last, *others = sorted((out / "done").iterdir())
    for path in others:
        path.unlink()
    for change in (lambda text: text.replace(b'"rows": 5', b'"rows": 4'), lambda text: b"{}"):
        damage(last, change)
        with pytest.raises(UserError, match=r"0000_0001\.json: (not readable as JSON|does not say)"):
            run(encoder, source, out)


def test_part_that_was_not_copied_with_its_pool_is_missed(encoder, tmp_path):
    source, out = records.write_jsonl(tmp_path), tmp_path / "out"
    out.mkdir()
    run(encoder, source, out)
    for name in ("img_emb/img_emb_0000_0002.npy", "metadata/metadata_0000_0002.parquet"):
        (out / name).unlink()
    with pytest.raises(UserError, match=r"2 files that done/ lists are missing, such as img_emb_0000_0002\.npy; copy"):
        embedded.EmbeddedPool(out)
    (out / "done/0000_0002.json").unlink()
    assert len(embedded.EmbeddedPool(out)) == records.COUNT - 5, "not embedded yet"


def test_kind_follows_from_size_and_memory():
    gigabyte = 1 << 30
    keys = [index.choose(n, 512, 4 * gigabyte).key for n in (10**5, 5 * 10**5, 10**6, 10**7, 10**9)]
    assert keys == ["Flat", "HNSW32", "IVF4096,PQ64", "IVF8192,PQ64", "IVF8192,PQ64"]
    for n in (10**6, 10**7, 10**9):
        kind = index.choose(n, 512, 4 * gigabyte)
        assert 4 * 512 * kind.training <= gigabyte, "a quarter of the budget"


def test_dataset_is_found_in_a_pool_with_other_images(tmp_path):
    z_ND = write_pool(tmp_path, 1000)
    ids = [*map(str, range(0, 1000, 2)), "unreadable"]
    zimg_ND, search, _ = mining.open_dataset(tmp_path, ids, 1 << 30)
    np.testing.assert_allclose(zimg_ND[np.array([3, 500])], [z_ND[6], np.zeros(32)], atol=1e-3)
    (numbers, cosines), (none, _) = search(range(3, 4), 20)[0], search(range(500, 501), 20)[0]
    nearest = np.argsort(-(z_ND @ z_ND[6]), kind="stable")[1:]
    assert len(none) == 0 and len(numbers) >= 20
    np.testing.assert_array_equal(numbers[:20], [n // 2 if n % 2 == 0 else -1 for n in nearest[:20]])
    np.testing.assert_allclose(cosines, (z_ND @ z_ND[6])[nearest[: len(cosines)]], atol=1e-3)
    with pytest.raises(UserError, match="none of the dataset's images, such as 'a', is in the pool"):
        mining.open_dataset(tmp_path, ["a", "b"], 1 << 30)


def test_images_of_one_name_in_a_pool_are_named(tmp_path, caplog):
    """Negatives of the image would be near to another."""
    write_pool(tmp_path, 6, names=["a", "b", "c", "b", "d", "d"])
    mining.open_dataset(tmp_path, ["a", "b", "c"], 1 << 30, by_image=False)
    assert "1 images of the dataset are there several times, such as 'b'; the last of each is taken" in caplog.text
