"""Pools of embeddings, as naturel-embed writes them.

Shape letters: N images, D embedding.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write_pool(folder, count, dim=32, rows=700, names=None) -> np.ndarray:
    """A pool of clustered unit vectors [N, D], as float16; the images are called 0, 1, ... without ``names``."""
    rng = np.random.default_rng(0)
    z_ND = rng.normal(size=(60, dim))[rng.integers(60, size=count)] + 0.7 * rng.normal(size=(count, dim))
    z_ND = (z_ND / np.linalg.norm(z_ND, axis=1, keepdims=True)).astype(np.float16)
    for kind in ("img_emb", "metadata"):
        (folder / kind).mkdir(parents=True)
    for n, start in enumerate(range(0, count, rows)):
        np.save(folder / f"img_emb/img_emb_{n:04}.npy", z_ND[start : start + rows])
        own = names[start : start + rows] if names else [*map(str, range(start, min(start + rows, count)))]
        pq.write_table(pa.table({"image_path": own}), folder / f"metadata/metadata_{n:04}.parquet")
    return z_ND.astype(np.float32)
