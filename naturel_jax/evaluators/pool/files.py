"""An embedded pool on disk, in clip-retrieval's layout, which embedding-reader and autofaiss read:

    img_emb/img_emb_0000.npy          embeddings of the images of a part [I, D], in the order of the source
    text_emb/text_emb_0000.npy        of their captions, if the pool has captions
    metadata/metadata_0000.parquet    their names (image_path) and captions
    done/0000.json                    number of its rows, those without a readable image, and checksums of the files
                                      above; written last
    pool.json                         what all of this was made from; written with the first part

Shard 0 has the part 0000 and, if it has more rows than a part, 0000_0001 and so on. A part without a readable image has
no files but its last. Files get their names once they are complete.

Shape letters: I images of a part, D embedding.
"""

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from etils import epath

from naturel_jax import storage
from naturel_jax.evaluators.pool.images import Part, Pool
from naturel_jax.storage.object_stores import in_store
from tfds_naturel.common.errors import UserError

VERSION = 1
_META, DONE = "pool.json", "done"
_WIDTH = 4  # digits at least, as in clip-retrieval


class Output:
    """The folder ``out``, as the process that embeds ``pool`` sees it."""

    def __init__(self, out: epath.Path, pool: Pool, made_from: Mapping[str, Any]):
        """Raises UserError if the folder has the embeddings of something else."""
        self.out, self._pool = out, pool
        self._width = max(_WIDTH, len(str(len(pool.table.shards) - 1)))
        self._meta = {"version": VERSION, "rows": pool.rows, "captions": pool.captioned, **made_from}
        if storage.exists(out / _META):
            self._check_same()
        if not in_store(out):
            for name in ("img_emb", *(["text_emb"] if pool.captioned else []), "metadata", DONE):
                (out / name).mkdir(exist_ok=True)
        self._done = set(storage.names(out / DONE))

    def is_done(self, part: Part) -> bool:
        """Whether the part was done when this process began."""
        return f"{self._stem(part)}.json" in self._done

    def is_finished(self, shard: int) -> bool:
        """Whether all parts of a shard are known to be done: from the first to one with fewer rows than the others."""
        last = next(n for n in itertools.count() if not self.is_done(Part(shard, n))) - 1
        return last >= 0 and self.rows(Part(shard, last)) < self._pool.rows

    def rows(self, part: Part) -> int:
        """The number of rows of a part that is done."""
        return _read_done(self.out / DONE / f"{self._stem(part)}.json")["rows"]

    def _check_same(self) -> None:
        found = storage.read_json(self.out / _META)
        for field in {**self._meta, **found}:
            if found.get(field) != self._meta.get(field):
                raise UserError(
                    f"{self.out / _META}: {field} is {found.get(field)!r}, now {self._meta.get(field)!r}; choose "
                    "another --out, or embed the same again"
                )

    def write(
        self,
        part: Part,
        metadata: Mapping[str, Sequence[str]],
        embeddings: Mapping[str, np.ndarray],
        bad: Sequence[Mapping[str, str]],
    ) -> None:
        """Writes a part: its columns, ``img_emb`` and perhaps ``text_emb``, and the name of and the reason for each bad
        row. Raises UserError if another process has begun to embed something else."""
        if not storage.create(self.out / _META, storage.sealed(self._meta)):
            self._check_same()
        stem, count = self._stem(part), len(metadata["image_path"])
        files: dict[str, bytes] = {}
        if count:
            for name, z_ID in embeddings.items():
                data = io.BytesIO()
                np.save(data, z_ID)
                files[f"{name}/{name}_{stem}.npy"] = data.getvalue()
            table = io.BytesIO()
            pq.write_table(pa.table({name: pa.array(column, pa.string()) for name, column in metadata.items()}), table)
            files[f"metadata/metadata_{stem}.parquet"] = table.getvalue()
        for file, content in files.items():
            storage.write(self.out / file, content)
        checksums = {file: xxhash.xxh3_64_hexdigest(content) for file, content in files.items()}
        rows = {"rows": count + len(bad), "images": count, "bad": list(bad), "xxh3": checksums}
        storage.write(self.out / DONE / f"{stem}.json", storage.sealed(rows))

    def _stem(self, part: Part) -> str:
        return f"{part.shard:0{self._width}}" + (f"_{part.number:0{_WIDTH}}" if part.number else "")


def count(out: epath.Path) -> tuple[int, int, int]:
    """The numbers of parts that are done, of their images, and of bad rows."""
    done = [_read_done(out / DONE / name) for name in storage.names(out / DONE)]
    return len(done), sum(part["images"] for part in done), sum(len(part["bad"]) for part in done)


def checksums(out: Path) -> dict[Path, str]:
    """File -> its checksum, as ``Output.write`` says. Other programs write none."""
    done = (_read_done(epath.Path(path)) for path in sorted((out / DONE).glob("*.json")))
    return {out / name: checksum for part in done for name, checksum in part["xxh3"].items()}


def model_of(out: Path) -> str:
    """The fingerprint of the model that embedded the images. Raises UserError if it is not known."""
    path = epath.Path(out / _META)
    found = storage.read_json(path) if storage.exists(path) else {}
    if not isinstance(found.get("model"), str):
        raise UserError(f"{path}: does not say which model embedded the pool; expected the --out of naturel-embed")
    return found["model"]


def _read_done(path: epath.Path) -> dict[str, Any]:
    """What ``Output.write`` says of a part. Raises UserError for a damaged file."""
    found = storage.read_json(path)
    kinds = {"rows": int, "images": int, "bad": list, "xxh3": dict}
    if any(not isinstance(found.get(name), kind) for name, kind in kinds.items()):
        raise UserError(f"{path}: does not say which rows are done; delete it, and the part is embedded again")
    return found
