"""Images/s of `naturel-embed` beside a loop as clip-retrieval's: PyTorch's DataLoader, OpenCLIP's preprocessing and
model, float16 files; B/32 with random weights over the same generated photos and captions in tar files.

    python -m perf.embed --images 512

Both embed everything ``--repeats`` times, in turns, after a shard to warm up; prints the medians and their ratio, and
with fewer than two workers, which take turns, the largest difference between embeddings. Needs the ``torch`` extra.
"""

import argparse
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from etils import epath
from PIL import Image

from naturel_jax.config import Fields
from naturel_jax.devices.processes import Share
from naturel_jax.evaluators.embed import load_encoder
from naturel_jax.evaluators.pool import embedding, files, images
from perf.evaluation import CAPTION, NOUNS, photo
from tests.helpers.record_files import tar_member
from tfds_naturel.common import cli

NAME = "ViT-B-32-quickgelu"
SHARD = 128  # images in a tar file


def write(folder: Path, count: int) -> list[Path]:
    """Tar files of photos with captions."""
    rng, photos, shards = np.random.default_rng(0), list[bytes](), list[Path]()
    for n in range(count):
        photos.append(photo(rng))
        if n % SHARD == 0:
            shards.append(folder / f"{len(shards):04}.tar")
        words = dict(zip("abc", map(str, rng.choice(NOUNS, 3, replace=False)), strict=True))
        with tarfile.open(shards[-1], "a") as tar:
            for suffix, data in (("jpg", photos[-1]), ("txt", CAPTION.format(**words).encode())):
                tar_member(tar, f"{n:06}.{suffix}", data)
    return shards


class Tars(torch.utils.data.IterableDataset):
    """Preprocessed images and tokens, each tar file by one worker."""

    def __init__(self, shards: Sequence[Path], preprocess, tokenizer):
        self.shards, self.preprocess, self.tokenizer = shards, preprocess, tokenizer

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        for shard in self.shards[worker.id :: worker.num_workers] if worker else self.shards:
            with tarfile.open(shard) as tar:
                members = iter(tar)
                for image, text in zip(members, members, strict=True):
                    picture = Image.open(io.BytesIO(tar.extractfile(image).read())).convert("RGB")
                    yield self.preprocess(picture), self.tokenizer([tar.extractfile(text).read().decode()])[0]


def loop(shards: Sequence[Path], model, preprocess, tokenizer, batch: int, workers: int, out: Path) -> np.ndarray:
    """Embeds all shards as clip-retrieval does; returns the image embeddings [N, D]."""
    loader = torch.utils.data.DataLoader(Tars(shards, preprocess, tokenizer), batch, num_workers=workers)
    found = []
    with torch.no_grad():
        for pixels, tokens in loader:
            found.append([model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)])
    arrays = [torch.cat(side).numpy().astype(np.float16) for side in zip(*found, strict=True)]
    for name, array in zip(("img_emb", "text_emb"), arrays, strict=True):
        np.save(out / f"{name}_0000.npy", array)
    return arrays[0]


def ours(source: str, encoder, params, out: Path) -> np.ndarray:
    """Embeds all shards with naturel_jax; returns the image embeddings [N, D]."""
    pool = images.open_pool(source, "data", "train", Fields(), 32_768)
    out.mkdir()
    output = files.Output(epath.Path(out), pool, {})
    embedding.embed(pool, embedding.Embedder(encoder, params, "float16"), output, Share())
    return np.concatenate([np.load(path) for path in sorted((out / "img_emb").iterdir())])


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=64, help="batch size of both programs")
    parser.add_argument("--workers", type=int, default=2, help="workers of the DataLoader; 0: none")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shards = write(folder, options.images)
        torch.manual_seed(0)
        model, _, preprocess = open_clip.create_model_and_transforms(NAME, force_quick_gelu=True)
        torch.save(model.eval().state_dict(), folder / "b32.pt")
        encoder, params = load_encoder(f"clip-b32:{folder / 'b32.pt'}", dtype="float32", batch_size=options.batch_size)
        peer = (model, preprocess, open_clip.get_tokenizer(NAME), options.batch_size, options.workers, folder)
        ours(f"webdataset:{shards[0]}", encoder, params, folder / "warm")
        loop(shards[:1], *peer)
        seconds: dict[str, list[float]] = {"naturel_jax": [], "PyTorch loop": []}
        for n in range(options.repeats):
            encoder._tokens.clear()  # the loop tokenizes each time, too
            start = time.perf_counter()
            found = ours(f"webdataset:{folder}/*.tar", encoder, params, folder / f"out{n}")
            seconds["naturel_jax"].append(time.perf_counter() - start)
            start = time.perf_counter()
            expected = loop(shards, *peer)
            seconds["PyTorch loop"].append(time.perf_counter() - start)
    rates = {name: options.images / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        print(f"{name}: {rate:.1f} images/s")
    print(f"{rates['naturel_jax'] / rates['PyTorch loop']:.2f} times as fast")
    if options.workers < 2:
        print(f"embeddings differ by {np.abs(found.astype(np.float32) - expected).max():.1e}")


if __name__ == "__main__":
    cli.run(main)
