"""The same records in every format that can be trained on by name."""

import csv
import functools
import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from tensorboardX.record_writer import RecordWriter

from tests.helpers.caption_groups import jpeg

COUNT = 24


def image(n: int) -> bytes:
    """The encoded image of record ``n``."""
    return jpeg(n, 64, 48)


def positives(n: int) -> list[str]:
    """True captions: one or two."""
    return [f"a red cup number {n} on a table", f"the table under cup {n}"][: 1 + n % 2]


def negatives(n: int) -> list[str]:
    """False captions, as many as true ones."""
    return [f"a red table number {n} on a cup", f"the cup under table {n}"][: 1 + n % 2]


def photos(folder: Path) -> list[str]:
    """Writes the images; returns their paths in the folder."""
    (folder / "photos").mkdir(exist_ok=True)
    for n in range(COUNT):
        (folder / f"photos/{n:02}.jpg").write_bytes(image(n))
    return [f"photos/{n:02}.jpg" for n in range(COUNT)]


def write_jsonl(folder: Path) -> str:
    rows = [
        {"image": path, "caption": positives(n) if n % 2 else positives(n)[0], "negatives": negatives(n)}
        for n, path in enumerate(photos(folder))
    ]
    (folder / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{folder}/my.jsonl"


def write_csv(folder: Path, name: str = "my.csv") -> str:
    with (folder / name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "title", "title_2", "wrong", "wrong_2"])
        for n, path in enumerate(photos(folder)):
            writer.writerow(
                [path, *(side[k] if k < len(side) else "" for side in (positives(n), negatives(n)) for k in (0, 1))]
            )
    return f"csv:{folder}/{name}"


def write_folder(folder: Path) -> str:
    write_csv(folder, "captions.csv")
    return f"folder:{folder}"


def _table() -> pa.Table:
    rows = [
        {"image": {"bytes": image(n), "path": None}, "text": positives(n), "negative": negatives(n)}
        for n in range(COUNT)
    ]
    return pa.Table.from_pylist(rows)


def write_parquet(folder: Path) -> str:
    for n in range(2):
        pq.write_table(_table()[n * 12 : n * 12 + 12], folder / f"part-{n}.parquet", row_group_size=5)
    return f"parquet:{folder}/part-*.parquet"


def write_hf(folder: Path) -> str:
    """As Hugging Face's ``save_to_disk`` does (test_data_sources.py has a test with its own)."""
    (folder / "saved/train").mkdir(parents=True)
    (folder / "saved/dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    names = [f"data-{n:05}-of-00002.arrow" for n in range(2)]
    (folder / "saved/train/state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    for n, name in enumerate(names):
        part = _table()[n * 12 : n * 12 + 12]
        with pa.ipc.new_stream(folder / "saved/train" / name, part.schema) as writer:
            writer.write_table(part, max_chunksize=5)
    return f"hf:{folder}/saved"


def tar_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_webdataset(folder: Path) -> str:
    for shard in range(3):
        with tarfile.open(folder / f"{shard:04}.tar", "w") as tar:
            for n in range(shard * 8, shard * 8 + 8):
                texts = json.dumps({"positives": positives(n), "negatives": negatives(n), "url": "x"}).encode()
                tar_member(tar, f"set/{n:06}.jpg", image(n))
                tar_member(tar, f"set/{n:06}.json", texts)
    return f"webdataset:{folder}/{{0000..0002}}.tar"


class Pictured(tfds.core.GeneratorBasedBuilder):
    """A TFDS dataset with features of its own."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        texts = tfds.features.Sequence({"text": tfds.features.Text()})
        features = {
            "photo": tfds.features.Image(),
            "said": texts,
            "denied": tfds.features.Sequence(tfds.features.Text()),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for n in range(COUNT):
            said = [{"text": text} for text in positives(n)]
            yield n, {"photo": io.BytesIO(image(n)), "said": said, "denied": negatives(n)}


def write_tfds(folder: Path) -> str:
    Pictured(data_dir=folder / "data", file_format="array_record").download_and_prepare()
    return "tfds:pictured"


def write_tfrecord(folder: Path) -> str:
    """TFDS's default format, which TFDS itself writes with TensorFlow only: two shards."""
    write_tfds(folder)
    prepared = folder / "data/pictured/1.0.0"
    (path,) = prepared.glob("*.array_record-*")
    records = ArrayRecordReader(str(path)).read_all()
    path.unlink()
    for shard in range(2):
        writer = RecordWriter(str(prepared / f"pictured-train.tfrecord-{shard:05}-of-00002"))
        for record in records[shard * 12 : shard * 12 + 12]:
            writer.write(record)
        writer.close()
    info = prepared / "dataset_info.json"
    described = info.read_text().replace('"array_record"', '"tfrecord"')
    info.write_text(re.sub(r'"shardLengths": \[\s*"24"\s*\]', '"shardLengths": ["12", "12"]', described))
    return "tfds:pictured"


# prefix -> (writer, fields)
FORMATS: dict[str, tuple[Callable[[Path], str], dict[str, str]]] = {
    "jsonl": (write_jsonl, {}),
    "csv": (write_csv, {"positives": "title, title_2", "negatives": "wrong,wrong_2"}),
    "folder": (write_folder, {"positives": "title,title_2", "negatives": "wrong,wrong_2"}),
    "parquet": (write_parquet, {}),
    "hf": (write_hf, {}),
    "webdataset": (write_webdataset, {}),
    "tfds": (write_tfds, {"image": "photo", "positives": "said.text", "negatives": "denied"}),
    "tfrecord": (write_tfrecord, {"image": "photo", "positives": "said.text", "negatives": "denied"}),
}


@functools.cache
def written(prefix: str, folder: Path) -> tuple[str, dict[str, str]]:
    """The dataset's name and its fields; its files are written on the first call."""
    writer, fields = FORMATS[prefix]
    folder.mkdir(parents=True, exist_ok=True)
    return writer(folder), fields
