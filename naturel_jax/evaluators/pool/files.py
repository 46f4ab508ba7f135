"""An embedded pool on disk, in clip-retrieval's layout, which embedding-reader and autofaiss read:

    img_emb/img_emb_0000.npy          embeddings of the images of a part [I, D], in the order of the source
    text_emb/text_emb_0000.npy        of their captions, if the pool has captions
    metadata/metadata_0000.parquet    their names (image_path) and captions
    done/0000.json                    number of its rows, and those without a readable image; written last
    pool.json                         what all of this was made from

Shard 0 has the part 0000 and, if it has more rows than a part, 0000_0001 and so on. A part without a readable image has
no files but its last. Files get their names once they are complete.

Shape letters: I images of a part, D embedding, N images of the pool, K any of them.
"""

import bisect
import functools
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from naturel_jax import storage
from naturel_jax.evaluators.pool.images import Part, Pool
from naturel_jax.storage.object_stores import in_store
from tfds_naturel.common.errors import UserError

VERSION = 1
_META, _DONE = "pool.json", "done"
_WIDTH = 4  # digits at least, as in clip-retrieval
_OPEN = 1024  # files that are mapped at a time


class Output:
    """The folder ``out``, as the process that embeds ``pool`` sees it."""

    def __init__(self, out: epath.Path, pool: Pool, made_from: Mapping[str, Any]):
        """Raises UserError if the folder has the embeddings of something else."""
        self.out, self._pool = out, pool
        self._width = max(_WIDTH, len(str(len(pool.table.shards) - 1)))
        meta = {"version": VERSION, "rows": pool.rows, "captions": pool.captioned, **made_from}
        if storage.exists(out / _META):
            found = storage.read_json(out / _META)
            for field in {**meta, **found}:
                if found.get(field) != meta.get(field):
                    raise UserError(
                        f"{out / _META}: {field} is {found.get(field)!r}, now {meta.get(field)!r}; choose "
                        "another --out, or embed the same again"
                    )
        else:
            storage.write_json(out / _META, meta)
        if not in_store(out):
            for name in ("img_emb", *(["text_emb"] if pool.captioned else []), "metadata", _DONE):
                (out / name).mkdir(exist_ok=True)
        self._done = set(storage.names(out / _DONE))

    def is_done(self, part: Part) -> bool:
        """Whether the part was done when this process began."""
        return f"{self._stem(part)}.json" in self._done

    def is_finished(self, shard: int) -> bool:
        """Whether all parts of a shard are done: the last one has fewer rows than the others."""
        number = 0
        while self.is_done(Part(shard, number + 1)):
            number += 1
        last = Part(shard, number)
        return self.is_done(last) and self.rows(last) < self._pool.rows

    def rows(self, part: Part) -> int:
        """The number of rows of a part that is done."""
        return storage.read_json(self.out / _DONE / f"{self._stem(part)}.json")["rows"]

    def write(
        self,
        part: Part,
        metadata: Mapping[str, Sequence[str]],
        embeddings: Mapping[str, np.ndarray],
        bad: Sequence[Mapping[str, str]],
    ) -> None:
        """Writes a part: its columns, ``img_emb`` and perhaps ``text_emb``, and the name of and the reason for each bad
        row."""
        stem, count = self._stem(part), len(metadata["image_path"])
        if count:
            for name, z_ID in embeddings.items():
                data = io.BytesIO()
                np.save(data, z_ID)
                storage.write(self.out / name / f"{name}_{stem}.npy", data.getvalue())
            table = io.BytesIO()
            pq.write_table(pa.table({name: pa.array(column, pa.string()) for name, column in metadata.items()}), table)
            storage.write(self.out / "metadata" / f"metadata_{stem}.parquet", table.getvalue())
        rows = {"rows": count + len(bad), "images": count, "bad": list(bad)}
        storage.write(self.out / _DONE / f"{stem}.json", json.dumps(rows))

    def _stem(self, part: Part) -> str:
        return f"{part.shard:0{self._width}}" + (f"_{part.number:0{_WIDTH}}" if part.number else "")


def count(out: epath.Path) -> tuple[int, int, int]:
    """The numbers of parts that are done, of their images, and of bad rows."""
    done = [storage.read_json(out / _DONE / name) for name in storage.names(out / _DONE)]
    return len(done), sum(part["images"] for part in done), sum(len(part["bad"]) for part in done)


class Embedded:
    """The image embeddings of a pool, on a disk; few are in memory at a time. Rows are numbered in the order of the
    files' names, as embedding-reader does."""

    def __init__(self, folder: Path):
        """Raises UserError for a folder without embeddings, or with files that do not belong together."""
        self.folder = folder
        self.files = sorted((folder / "img_emb").glob("*.npy"))
        if not self.files:
            raise UserError(f"{folder / 'img_emb'}: no .npy files; expected the --out of naturel-embed")
        self._open = functools.lru_cache(_OPEN)(lambda file: np.load(self.files[file], mmap_mode="r"))
        shapes = [self._shape(path) for path in self.files]
        if len({dim for _, dim in shapes}) > 1:
            raise UserError(
                f"{folder / 'img_emb'}: files have {sorted({dim for _, dim in shapes})} columns; expected one"
            )
        self.dim = shapes[0][1]
        self._first = np.cumsum([0, *(rows for rows, _ in shapes)])
        self._metadata = sorted((folder / "metadata").glob("*.parquet"))
        if [pq.read_metadata(path).num_rows for path in self._metadata] != [rows for rows, _ in shapes]:
            raise UserError(f"{folder}: metadata/ and img_emb/ differ in their rows; embed the pool again to its end")

    @staticmethod
    def _shape(path: Path) -> tuple[int, int]:
        try:
            rows, dim = np.load(path, mmap_mode="r").shape
        except ValueError as error:
            raise UserError(f"{path}: not an array of embeddings ({error}); delete it and embed again") from error
        return rows, dim

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, rows_K: np.ndarray) -> np.ndarray:
        """Unit embeddings [K, D], float32."""
        z_KD = np.empty((len(rows_K), self.dim), np.float32)
        file_K = np.searchsorted(self._first, rows_K, "right") - 1
        for file in np.unique(file_K):
            of_file = file_K == file
            z_KD[of_file] = self._open(file)[rows_K[of_file] - self._first[file]]
        return _unit(z_KD)

    def blocks(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """The unit embeddings [K, D], float32, of rows ``start`` to ``stop``, in order, at most ``rows`` at a time.
        They are read, not mapped: mapped pages would count as memory of the process."""
        stop = len(self) if stop is None else stop
        while start < stop:
            file = bisect.bisect_right(self._first, start) - 1
            end = min(start + rows, stop, int(self._first[file + 1]))
            mapped = np.load(self.files[file], mmap_mode="r")
            offset = mapped.offset + (start - int(self._first[file])) * self.dim * mapped.itemsize
            z = np.fromfile(self.files[file], mapped.dtype, (end - start) * self.dim, offset=offset)
            yield _unit(z.reshape(-1, self.dim).astype(np.float32))
            start = end

    def names(self) -> Iterator[str]:
        """The name of each image, in order."""
        for path in self._metadata:
            yield from pq.read_table(path, columns=["image_path"])["image_path"].to_pylist()


def _unit(z_KD: np.ndarray) -> np.ndarray:
    """Float16 rounds lengths to 0.9998 or so."""
    return z_KD / np.maximum(np.linalg.norm(z_KD, axis=1, keepdims=True), 1e-12)
