"""Every source by name: the same records in each format give the same items, and so the same batches and losses."""

import json
import os
import tarfile

import absl.flags
import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax.data import datasets
from naturel_jax.data.batches.pipeline import make_pipeline
from naturel_jax.devices import preemption
from naturel_jax.models.presets import preset
from naturel_jax.storage import read_json_lines
from naturel_jax.training import run
from tests.helpers import record_files as files
from tests.helpers import tiny_config
from tests.helpers.caption_groups import mesh, processor
from tests.helpers.worlds import data_dir
from tfds_naturel.common.errors import Stopped, UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


def open_source(prefix, folder, **options):
    name, fields = files.written(prefix, folder / prefix)
    fields = c.Fields(**fields | options.pop("fields", {}))
    return datasets.open_source(name, str(folder / prefix / "data"), "train", fields, **options)


def rows_of(dataset, folder) -> list:
    """The rows of a dataset's one shard."""
    (shard,) = datasets.open_unindexed(dataset, str(folder / "data"), "train").shards
    return list(shard.rows())


def check_records(source) -> None:
    """Whether a source has the captions, pairs and images of ``record_files``."""
    items = source.items
    assert len(items) == files.COUNT
    for n in range(files.COUNT):
        sides = [(items.positives, files.positives(n)), (items.negatives, files.negatives(n))]
        for captions, expected in sides:
            assert [items.texts[t] for t in captions.text_C[captions.rows(n)]] == expected
        positive, negative = (side[0] for side in items.pairs(np.array([n])))
        assert items.positives.pair_C[positive].tolist() == items.negatives.pair_C[negative].tolist()
        assert source.read_image(n) == files.image(n)


@pytest.mark.parametrize("prefix", files.FORMATS)
def test_every_format_gives_the_same_records(prefix, folder):
    source = open_source(prefix, folder)
    check_records(source)
    items = source.items
    copied = list((folder / prefix).rglob("images.bin"))
    assert bool(copied) == (prefix == "parquet"), "other formats' images are read where they are"
    assert list(items.texts) == [items.texts[n] for n in range(len(items.texts))]
    assert len(items.facts) == 0 and items.shows.widest == 0


def test_lists_in_cells_are_lists(tmp_path):
    """NegCLIP's train_neg_clip.tsv, as pandas writes it, JSON, and what is no list of strings."""
    (tmp_path / "0.jpg").write_bytes(files.image(0))
    cells = [
        ["a mat on a cat", 'it\'s a "dog"\n\u00e9 \U0001f600'],
        *(json.dumps(["a mat", "\U0001f600"]), [], "[a] dog [b]", "[cat]"),
        *(np.array(["a mat", "a dog"]), ["a mat", None], "['a' 'b']", r"['\d']"),
    ]
    rows = [{"title": f"{n}", "filepath": tmp_path / "0.jpg", "neg_caption": cell} for n, cell in enumerate(cells)]
    rows[0]["title"] = ["a cat on a mat", "a cat"]
    table = pd.DataFrame(rows).assign(neg_image=[[1, 2]] * len(rows))
    table.to_csv(tmp_path / "train_neg_clip.tsv", sep="\t")
    name, fields = f"csv:{tmp_path}/train_neg_clip.tsv", c.Fields(folder=str(tmp_path))
    items = datasets.open_source(name, str(tmp_path / "data"), "train", fields, max_bad=1.0).items
    read = [[items.texts[t] for t in items.negatives.text_C[items.negatives.rows(n)]] for n in range(len(items))]
    assert read == [cells[0], ["a mat", "\U0001f600"], [], ["[a] dog [b]"], ["[cat]"]]
    assert [items.texts[t] for t in items.positives.text_C[items.positives.rows(0)]] == rows[0]["title"]
    (path,) = (tmp_path / "data").rglob("problems.jsonl")
    bad = [json.loads(line)["reason"] for line in path.read_text().splitlines()]
    assert len(bad) == 4 and all("not a list of strings; expected JSON, or Python as ['a', 'b']" in b for b in bad)


def config(name, data_dir, *recipes, objective="softmax", fields=None) -> c.Config:
    raw = tiny_config.get_config(objective)
    raw.data.dir, raw.data.batch_size = str(data_dir), 8
    raw.data.mixture = {recipe: c.part(name, recipe, fields=fields or {}) for recipe in recipes}
    raw.duration, raw.optim.warmup, raw.checkpoint.every = "4 steps", "0 steps", "1 steps"
    raw.eval.benchmarks, raw.eval.during = (), {}
    return c.load(raw)


def of_format(prefix, folder) -> c.Config:
    """A mixture of two recipes on the same records."""
    name, fields = files.written(prefix, folder / prefix)
    return config(name, folder / prefix / "data", "one_pair", "order_shuffles", fields=fields)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Programs are compiled once for all runs of this module."""
    changed = {"jax_compilation_cache_dir": str(tmp_path_factory.mktemp("xla"))}
    changed |= {"jax_persistent_cache_min_compile_time_secs": 0.2}
    before = {name: getattr(jax.config, name) for name in changed}
    for name, value in changed.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def losses(workdir) -> list[float]:
    lines = read_json_lines(epath.Path(workdir) / "metrics.jsonl")
    return [line["train/loss"] for line in lines if "train/loss" in line]


def train_until_stopped(settings, workdir, monkeypatch) -> None:
    """Stops as a signal would, once a step is logged."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(preemption, "stop_requested", lambda: bool(losses(workdir)))
        run.run(settings, workdir)
    assert 0 < len(losses(workdir)) < 4


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory, compiled):
    """The losses of JSONL without a stop."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    run.run(of_format("jsonl", folder), workdir)
    return losses(workdir)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["jsonl", "tfds"])
def test_formats_train_two_recipes_and_resume_exactly(prefix, folder, tmp_path, uninterrupted, monkeypatch):
    """Their records are the same, as the test above says of all."""
    settings = of_format(prefix, folder)
    train_until_stopped(settings, tmp_path, monkeypatch)
    run.run(settings, tmp_path)
    assert losses(tmp_path) == uninterrupted and len(uninterrupted) == 4


def test_one_positive_and_no_negative_train(folder, tmp_path, compiled):
    rows = (f"{folder}/jsonl/photos/{n:02}.jpg,thing {n}\n" for n in range(8))
    (tmp_path / "my.csv").write_text("filepath,caption\n" + "".join(rows))
    files.written("jsonl", folder / "jsonl")
    settings = config(f"csv:{tmp_path}/my.csv", tmp_path, "positives", objective="sigmoid", fields={"folder": "/"})
    run.run(settings, tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 4 and all(np.isfinite(losses(tmp_path / "run")))


def test_mixture_with_naturel_does_not_depend_on_processes(folder):
    absl.flags.FLAGS.mark_as_parsed()
    name, _ = files.written("jsonl", folder / "jsonl")
    raw = c.base()
    raw.preset, raw.data.dir, raw.data.batch_size = "tiny-clip", str(data_dir()), 16
    raw.data.mixture.mine = c.part(name, "one_pair", weight=0.25)
    raw.data.mixture.scenes = c.part("naturel/tiny", "one_pair", weight=0.75)
    sources = datasets.open_sources(c.load(raw).data)
    tokens = processor("clip", [text for source in sources for text in source.items.texts])

    def batches(workers, start=0):
        raw.data.workers = workers
        pipe = make_pipeline(c.load(raw), sources, preset("tiny-clip"), tokens, mesh(8))
        assert sum(source == 0 for source, _ in pipe.planner.items(1)) == 4
        return list(pipe.batches(start, 3))

    one, other = batches(0), batches(2, start=1)
    for a, b in zip(one[1:], other, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_run_continues_only_with_the_records_it_trained_on(tmp_path, compiled, monkeypatch):
    files.written("jsonl", tmp_path / "jsonl")
    settings = of_format("jsonl", tmp_path)
    train_until_stopped(settings, tmp_path / "run", monkeypatch)
    path = tmp_path / "jsonl/my.jsonl"
    before = path.read_text()
    path.write_text(before + json.dumps({"image": "photos/00.jpg", "caption": "one more"}) + "\n")
    with pytest.raises(UserError, match=r"mixture\.one_pair is .*'records': 25.*trains on .*'records': 24.*--workdir"):
        run.run(settings, tmp_path / "run")
    path.write_text(before)  # another time, the same records
    run.run(settings, tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 4


def test_saved_by_hugging_face(tmp_path, folder):
    hf = pytest.importorskip("datasets")
    rows = {
        "image": [{"bytes": files.image(n), "path": None} for n in range(files.COUNT)],
        "text": [files.positives(n)[0] for n in range(files.COUNT)],
    }
    features = hf.Features({"image": hf.Image(), "text": hf.Value("string")})
    hf.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved", num_shards=2)
    source = datasets.open_source(f"hf:{tmp_path}/saved", str(tmp_path), "train")
    assert [source.items.texts[n] for n in range(3)] == rows["text"][:3]
    assert [source.read_image(n) for n in range(files.COUNT)] == [files.image(n) for n in range(files.COUNT)]
    assert not list((tmp_path / ".cache").rglob("images.bin"))  # read where they are


def test_downloaded_by_hugging_face(tmp_path, folder, monkeypatch):
    """Read from the Arrow files in the cache of ``datasets``."""
    hf = pytest.importorskip("datasets")
    files.written("parquet", folder / "parquet")
    paths = sorted(map(str, (folder / "parquet").glob("*.parquet")))
    downloaded = hf.Dataset.from_parquet(paths, cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(hf, "load_dataset", lambda name, split: {("owner/name", "train"): downloaded}[name, split])
    check_records(datasets.open_source("hf:owner/name", str(tmp_path), "train"))


@pytest.mark.parametrize(
    ("dataset", "split", "match"),
    [
        ("jsonl:missing.jsonl", "train", r"jsonl:missing\.jsonl: no such file or folder"),
        ("csv:{}/jsonl/my.jsonl", "test", "split 'test': a CSV file has no splits"),
        ("parquet:{}/jsonl/my.jsonl", "train", r"my\.jsonl: not a readable Arrow or Parquet file"),
        ("parquet:{}/none-*.parquet", "train", "no such file"),
        ("webdataset:{}/{{0000..0001}}.tar", "train", r"0000\.tar does not exist"),
        ("webdataset:{}/{{3..1}}.tar", "train", r"names no file; expected the lower number first"),
        ("hf:{}/hf/saved", "test", "has no split 'test'; expected one of: train"),
        ("hf:{}/jsonl", "train", r"no state\.json"),
        ("folder:{}/hf", "train", r"0 images, no captions; expected captions\.csv"),
        ("video:x", "train", "prefix 'video'; expected tfds, jsonl, csv, parquet, hf, webdataset, folder"),
    ],
)
def test_error_names_a_source_that_cannot_be_opened(dataset, split, match, folder):
    for prefix in ("jsonl", "hf"):
        files.written(prefix, folder / prefix)
    with pytest.raises(UserError, match=match):
        datasets.open_source(dataset.format(folder), str(folder), split)


def test_fields_of_a_dataset_with_caption_groups_are_rejected():
    with pytest.raises(UserError, match="'naturel/tiny' has captions in groups; leave `fields` empty"):
        datasets.open_source("naturel/tiny", str(data_dir()), "train", c.Fields(image="x"))


def test_sidecar_texts(tmp_path):
    for n, path in enumerate(files.photos(tmp_path)):
        if n:
            (tmp_path / path).with_suffix(".txt").write_text(f"\ufeffcaption {n}\n\nanother {n}\n")
    source = datasets.open_source(f"folder:{tmp_path}", str(tmp_path / "data"), "train", max_bad=0.1)
    assert len(source.items) == files.COUNT - 1 and source.items.left_out.tolist() == [0]
    assert list(source.items.texts)[:2] == ["caption 1", "another 1"]


def test_texts_that_are_no_files_are_bad_records(tmp_path):
    """Not a wait for a pipe's other end, or all memory full of a device's zeros."""
    for path in files.photos(tmp_path):
        (tmp_path / path).with_suffix(".txt").write_text("a cup\n")
    pipe, device, folder, sparse = sorted(tmp_path.rglob("*.txt"))[:4]
    os.truncate(sparse, (1 << 24) + 1)
    for path in (pipe, device, folder):
        path.unlink()
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    folder.mkdir()
    source = datasets.open_source(f"folder:{tmp_path}", str(tmp_path / "data"), "train", max_bad=0.7)
    assert source.items.left_out.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_rows_after_a_caption_that_begins_with_a_quote_are_not_lost_silently(delimiter, tmp_path):
    rows = ["image|caption|negative", 'a.png|"zoo|a cat', "b.png|a dog|a cat", 'c.png|a pipe of 6"|a boat']
    rows += ['d.png|"a tree\nin the park"|a house', 'e.png|a boat|"one|two\nthree"']
    text = "".join(f"{row}\n" for row in rows).replace("|", delimiter)
    (tmp_path / "my.csv").write_text(text)
    swallowed, *others, tree, boat = rows_of(f"csv:{tmp_path}/my.csv", tmp_path)[: 5 + (delimiter == ",")]
    assert "lines 2 to 4 are one record, since a cell begins with a quote" in str(swallowed)
    assert list(map(str, others)) == [f"line {line} is part of a cell of line 2" for line in (3, 4)]
    assert tree["caption"] == "a tree\nin the park"
    if delimiter == "\t":
        assert "lines 7 to 8 are one record" in str(boat)
    else:
        assert boat["negative"] == "one,two\nthree"


@pytest.mark.parametrize(
    "between", ["b.png,a dog,a cat\n", "b.png,a dog,a cat\n\n", "b.png,a dog\nc.png,a cow,a cat\n"]
)
@pytest.mark.parametrize("end", ['d.png,a tree,a boat"\n', ""])
def test_each_row_that_a_quote_swallows_is_a_bad_record(between, end, tmp_path):
    """Else one bad record in thousands would pass as less than ``max_bad``."""
    swallowed = f'a.png,a cat,"zoo\n{between * 20}{end}'
    (tmp_path / "my.csv").write_text(f"image,caption,negative\n{swallowed}" + "e.png,a cup,a mug\n" * bool(end))
    rows = rows_of(f"csv:{tmp_path}/my.csv", tmp_path)
    bad = [row for row in rows if isinstance(row, Exception)]
    assert len(bad) == swallowed.count("\n") and len(rows) == len(bad) + bool(end)


def test_images_of_parquet_files_in_several_folders_are_those_beside_each(tmp_path):
    for n, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(files.image(n))
        rows = {"image": ["0.jpg", "../a/0.jpg"], "caption": [f"{name} zero", f"{name} other"]}
        pq.write_table(pa.table(rows), tmp_path / name / "t.parquet")
    source = datasets.open_source(f"parquet:{tmp_path}/*/t.parquet", str(tmp_path / "data"), "train", max_bad=0.6)
    assert [source.read_image(n) for n in (0, 2)] == [files.image(0), files.image(1)]
    assert [source.items.image_ids[n] for n in (0, 2)] == ["a/0.jpg", "b/0.jpg"]
    assert source.items.left_out.tolist() == [3]  # it leaves the folder of its file
    fields = c.Fields(folder=str(tmp_path / "a"))
    source = datasets.open_source(f"parquet:{tmp_path}/*/t.parquet", str(tmp_path / "data"), "train", fields)
    assert [source.read_image(n) for n in range(4)] == [files.image(0)] * 4


def test_member_or_column_that_is_there_twice_is_named(tmp_path):
    """Which of the two was meant is not known."""
    members = {"a.jpg": files.image(0), "a.txt": b"a cup", "b.jpg": files.image(1), "b.txt": b"a dog"}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in [*members.items(), ("b.TXT", b"a cat"), ("c.__key__", b"d")]:
            files.tar_member(tar, name, data)
    rows = rows_of(f"webdataset:{tmp_path}/a.tar", tmp_path)
    assert rows[0]["txt"] == b"a cup"
    assert [str(row) for row in rows[1:]] == ["b has two members 'txt'", "c has two members '__key__'"]
    (tmp_path / "my.jsonl").write_text('{"image": "a.jpg", "caption": "a cup", "caption": "a dog"}\n')
    (row,) = rows_of(f"jsonl:{tmp_path}/my.jsonl", tmp_path)
    assert str(row) == "not JSON: key 'caption' appears twice"
    (tmp_path / "my.csv").write_text("filepath,caption,,caption,\na.jpg,a cup,,a dog,\n")
    with pytest.raises(UserError, match=r"my\.csv: not a readable table \(two columns are called 'caption'; ren"):
        datasets.open_source(f"csv:{tmp_path}/my.csv", str(tmp_path), "train")


@pytest.mark.parametrize("codecs", [["zstd"], [None, "zstd", None]], ids=str)
def test_images_of_an_arrow_stream_of_which_a_part_is_compressed(codecs, tmp_path):
    """Its bytes are not where the file has them, so they are copied; the others are read where they are."""

    def messages(n: int, codec: str | None) -> list[bytes]:
        table, sink = pa.table({"image": [files.image(n)], "caption": ["a cup"]}), pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_table(table)
        return [message.serialize().to_pybytes() for message in pa.ipc.MessageReader.open_stream(sink.getvalue())]

    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/state.json").write_text(json.dumps({"_data_files": [{"filename": "a.arrow"}]}))
    batches = [messages(n, codec)[1] for n, codec in enumerate(codecs)]
    (tmp_path / "saved/a.arrow").write_bytes(b"".join([messages(0, None)[0], *batches]))
    source = datasets.open_source(f"hf:{tmp_path}/saved", str(tmp_path), "train")
    assert [source.read_image(n) for n in range(len(codecs))] == [files.image(n) for n in range(len(codecs))]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_link_in_a_tar_is_refused(kind, tmp_path):
    """Records of equal images would be lost: tar packs the second name of a file as a link to the first."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        files.tar_member(tar, "a.jpg", files.image(0))
        member = tarfile.TarInfo("b.jpg")
        member.type, member.linkname = kind, "a.jpg"
        tar.addfile(member)
    with pytest.raises(UserError, match=r"a\.tar: b\.jpg is a link or device; pack it with tar --dereference"):
        rows_of(f"webdataset:{tmp_path}/a.tar", tmp_path)


def test_sparse_member_of_a_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.jpg")
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        tar.addfile(member)
    with pytest.raises(UserError, match=r"a\.tar: "):
        rows_of(f"webdataset:{tmp_path}/a.tar", tmp_path)


@pytest.mark.parametrize("records", [b"2 " * 30_000 + b"=", b"1" * 30_000, b"207 a=" + b"1" * 200 + b"\n"], ids=len)
def test_extended_headers_of_a_tar_that_cost_the_square_of_their_length_are_refused(records, tmp_path):
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    member = header.tobuf() + records + bytes(-len(records) % 512) + tarfile.TarInfo("a.jpg").tobuf()
    (tmp_path / "a.tar").write_bytes(member + bytes(1024))
    with pytest.raises(UserError, match=r"a\.tar: not a readable tar file: an extended header has a "):
        rows_of(f"webdataset:{tmp_path}/a.tar", tmp_path)


def test_extended_headers_of_a_tar_may_have_anything_that_is_short(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "é"}) as tar:
        member = tarfile.TarInfo("é" * 100 + ".jpg")
        member.pax_headers = {"SCHILY.xattr.user.note": "of two\n2 lines\n"}
        tar.addfile(member)
    assert [row["__key__"] for row in rows_of(f"webdataset:{tmp_path}/a.tar", tmp_path)] == ["é" * 100]


def test_values_that_are_larger_than_their_file_are_refused(tmp_path):
    """A cell of zeros, or of the letters of a text, costs no bytes, and makes an image's pixels or tokens cheap."""
    for name, cells in (
        ("strings", ["a" * 400_000]),
        ("dictionary", pa.array(["a" * 400_000] * 2).dictionary_encode()),
    ):
        pq.write_table(pa.table({"image": cells}), tmp_path / f"{name}.parquet", compression="zstd")
        with pytest.raises(UserError, match=r"unpack to 400,000 bytes of one value; the limit for so many bytes is"):
            rows_of(f"parquet:{tmp_path}/{name}.parquet", tmp_path)


def test_tars_that_go_on_after_their_end_are_refused(tmp_path):
    files.write_webdataset(tmp_path)
    path = min(tmp_path.rglob("*.tar"))
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1].offset
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[second + 150] ^= 1  # of the header's own checksum
    for content, first in ((damaged, f"{second:,}"), (whole + whole, "[0-9,]+")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"no member can be read from byte {first} on, but more follows"):
            rows_of(f"webdataset:{path}", tmp_path)


def test_member_of_a_negative_size_is_refused(tmp_path):
    files.write_webdataset(tmp_path)
    path = min(tmp_path.rglob("*.tar"))
    with tarfile.open(path) as tar:
        member = tar.getmembers()[0]
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (-512).to_bytes(12, "big", signed=True)  # back to its own header
    header[148:156] = b"%06o\0 " % sum(header[:148] + b" " * 8 + header[156:])
    path.write_bytes(header + path.read_bytes()[512:])
    with pytest.raises(UserError, match=rf"^{path}: (.* has -512 bytes|not a readable tar file: invalid offset)"):
        rows_of(f"webdataset:{path}", tmp_path)


def test_truncated_array_record_is_refused(tmp_path):
    files.write_tfds(tmp_path)
    (path,) = tmp_path.rglob("*.array_record*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="prepare the dataset again") as caught:
        rows_of("tfds:pictured", tmp_path)
    assert "\n" not in str(caught.value)


def test_tfrecord_file_without_some_of_its_records_is_refused(tmp_path):
    """As a copy that never began leaves it, or one that ended between two records."""
    files.write_tfrecord(tmp_path)
    path = max(tmp_path.rglob("*.tfrecord-*"))
    whole = path.read_bytes()
    for count, size in ((0, 0), (1, 16 + int.from_bytes(whole[:8], "little"))):
        path.write_bytes(whole[:size])
        match = f"^{path} has {count} records, and dataset_info.json says 12: copy the file again"
        with pytest.raises(UserError, match=match):
            datasets.open_unindexed("tfds:pictured", str(tmp_path / "data"), "train")


def test_hub_dataset_that_datasets_refuses(tmp_path, monkeypatch):
    import datasets as hf

    def refuse(name, split):
        raise RuntimeError(f"Dataset scripts are no longer supported, but found {name}.py")

    monkeypatch.setattr(hf, "load_dataset", refuse)
    match = r"hf:owner/name, split 'train': Dataset scripts are no longer.* save_to_disk\(FOLDER\), and name hf:FOLDER"
    with pytest.raises(UserError, match=match):
        datasets.open_source("hf:owner/name", str(tmp_path), "train")
