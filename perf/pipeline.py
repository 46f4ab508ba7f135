"""Images/s of the input pipeline, compared with a bare decode-and-resize loop and with other libraries' loaders.

    python perf/pipeline.py --threads 1 2 --workers 1 2    # or: python -m perf.pipeline ...

All read the same JPEGs, like those the builder writes (short side 288, quality 92). The variants take turns for
``--rounds`` rounds, and each ratio is the median of those to the bare loop of the same round: a shared machine, or one
whose clock drifts, slows both. Ratios are of images per second, and of images per second of processor time over all
processes: the throughput of one core. tf.data, torch and webdataset are measured if they are installed.

``bilinear`` is ``config.data.shrink_by``. ``decoded`` crops from decoded images (``config.data.cache``), which are made
beforehand; ``decoded, copied`` is what the host does with ``config.data.augment_on = 'device'``: an accelerator would
resize the crops. ``tars`` is our source ``webdataset:``, whose index is made beforehand. webdataset's own loader reads
the same tar files in as many processes as ours in threads, with the decoder and crop that its documentation shows
(Pillow, torchvision), or with those of the bare loop (``fast``).
"""

import argparse
import dataclasses
import functools
import importlib.util
import io
import resource
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import absl.flags
import cv2
import jax
import numpy as np
import simplejpeg
from PIL import Image

from naturel_jax import config
from naturel_jax.data import datasets, decoded_writer
from naturel_jax.data.augment import Crops
from naturel_jax.data.items import Group, Source, collect
from naturel_jax.data.pipeline import Pipeline, make_pipeline
from naturel_jax.data.processor import Processor, train_tokenizer
from naturel_jax.models.presets import preset
from naturel_jax.sharding import make_mesh
from tfds_naturel import cli
from tfds_naturel.captions import bank
from tfds_naturel.errors import UserError

SIZE, SCALE, RATIO, BATCH = 224, (0.9, 1.0), (3 / 4, 4 / 3), 256
_SHARDS = 4  # tar files
_REPEATS = 4  # of what is so fast that its start would count


def write_images(folder: Path, count: int) -> list[Path]:
    """JPEGs of 432 x 288 pixels with structure at several scales, so that their size in bytes is a photo's."""
    rng, paths = np.random.default_rng(0), []
    for n in range(count):
        pixels = sum(
            cv2.resize(rng.normal(0, 18, (288 // cell, 432 // cell, 3)), (432, 288), interpolation=cv2.INTER_CUBIC)
            for cell in (2, 8, 32, 144)
        )
        data = io.BytesIO()
        Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=92)
        paths.append(folder / f"{n}.jpg")
        paths[-1].write_bytes(data.getvalue())
    return paths


def bare(paths: list[Path], epochs: int) -> int:
    """Reads, decodes and resizes one image after another."""
    for path in paths * epochs:
        pixels = simplejpeg.decode_jpeg(path.read_bytes(), "RGB")
        cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return epochs * len(paths)


def bank_source(paths: list[Path]) -> Source:
    """The images at ``paths``, each with the bank's captions of one triplet."""
    groups = [Group.from_triplet(captions) for captions in bank.load().values()]
    items = collect("files", ((str(n), [groups[n % len(groups)]]) for n in range(len(paths))))
    return Source(items, functools.partial(read, paths))


def read(paths: list[Path], n: int) -> bytes:
    """The file of image ``n``."""
    return paths[n].read_bytes()


def write_tars(paths: list[Path]) -> str:
    """The images and a caption of each in tar files next to them; returns the pattern of their names."""
    folder = paths[0].parent
    for shard in range(_SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for path in paths[shard::_SHARDS]:
                for name, data in ((path.name, path.read_bytes()), (f"{path.stem}.txt", b"a cup on a table")):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return f"{folder}/{{0..{_SHARDS - 1}}}.tar"


def training_pipeline(source: Source, threads: int, workers: int = 0, **options: str) -> Pipeline:
    """A training run's pipeline, with sampled captions, and batches placed on the device. ``options``: other fields of
    ``config.data``."""
    recipe = "positives" if source.content else "single_pair"
    mixture = {"files": config.Part("files", recipe)}
    data = config.Data(mixture=mixture, batch_size=BATCH, crop_scale=SCALE, threads=threads, workers=workers, **options)
    model = preset("tiny-clip")  # only its sizes are used
    model = dataclasses.replace(model, image=dataclasses.replace(model.image, size=SIZE))
    pixels = {"resize": "short", "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    tokenizer = train_tokenizer("clip", source.items.texts, model.text.vocab, model.text.context)
    processor = Processor(tokenizer=tokenizer, context=model.text.context, size=SIZE, **pixels)
    return make_pipeline(config.Config(data=data), [source], model, processor, make_mesh({"data": -1}))


def ours(pipeline: Pipeline, steps: int) -> int:
    """Batches until they are on the device."""
    for batch in pipeline.batches(0, steps):
        jax.block_until_ready(batch)
    return steps * BATCH


def copied(pipeline: Pipeline, steps: int) -> int:
    """Crops until they are on the device, which would resize them."""
    for local in pipeline.local_batches(0, steps):
        jax.block_until_ready(jax.device_put((local.batch, local.sides)))
    return steps * BATCH


class TorchFiles:
    """A map-style dataset as OpenCLIP's transforms read it."""

    def __init__(self, paths: list[Path]):
        from torchvision import transforms

        crop = transforms.RandomResizedCrop(SIZE, SCALE, RATIO, transforms.InterpolationMode.BICUBIC)
        self._paths, self.transform = paths, transforms.Compose([crop, transforms.PILToTensor()])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, n: int):
        with Image.open(self._paths[n]) as image:
            return self.transform(image.convert("RGB"))


def torch_loader(paths: list[Path], epochs: int, workers: int) -> int:
    """torch's DataLoader over PIL and torchvision."""
    import torch

    torch.set_num_threads(1)
    options = {"shuffle": True, "drop_last": True, "num_workers": workers, "persistent_workers": workers > 0}
    loader = torch.utils.data.DataLoader(TorchFiles(paths), BATCH, **options)
    return sum(len(batch) for _ in range(epochs) for batch in loader)


def webdataset_loader(tars: str, epochs: int, workers: int, fast: bool) -> int:
    """webdataset's own loader."""
    import torch
    import webdataset

    torch.set_num_threads(1)
    transform = TorchFiles([]).transform

    def crop(sample) -> np.ndarray:
        if fast:
            pixels = simplejpeg.decode_jpeg(sample["jpg"], "RGB")
            return cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        return transform(Image.open(io.BytesIO(sample["jpg"])).convert("RGB")).numpy()

    dataset = webdataset.WebDataset(tars, shardshuffle=_SHARDS).repeat(epochs).shuffle(1000)
    dataset = dataset.map(lambda sample: (crop(sample), sample["txt"])).batched(BATCH)
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=workers)
    return sum(len(images) for images, _ in loader)


def tf_data(paths: list[Path], epochs: int, threads: int) -> int:
    """tf.data with decoding and cropping in one operation, as big_vision has it."""
    import tensorflow as tf

    def load(path):
        data = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data),
            tf.zeros([0, 0, 4]),
            area_range=SCALE,
            aspect_ratio_range=RATIO,
            use_image_if_no_bounding_boxes=True,
        )
        crop = tf.image.decode_and_crop_jpeg(data, tf.concat([begin[:2], size[:2]], 0), channels=3)
        return tf.cast(tf.image.resize(crop, (SIZE, SIZE), "bicubic"), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices([str(path) for path in paths]).shuffle(len(paths)).repeat(epochs)
    return sum(len(batch) for batch in dataset.map(load, threads).batch(BATCH, drop_remainder=True).prefetch(2))


class Rate(NamedTuple):
    """Images per second of wall time and of processor time."""

    wall: float
    cpu: float


def cpu_seconds() -> float:
    """Processor time of this process and of its finished children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def rate(run: Callable[[], int]) -> Rate:
    """The rate of ``run``, which returns the number of its images."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    images = run()
    return Rate(images / (time.perf_counter() - wall), images / (cpu_seconds() - cpu))


def variants(paths: list[Path], epochs: int, threads: list[int], workers: list[int]) -> dict[str, Callable[[], int]]:
    """Name -> function that reads all images ``epochs`` times, or more often, and returns how many it read."""
    steps, folder = epochs * len(paths) // BATCH, paths[0].parent
    source, tars = bank_source(paths), write_tars(paths)
    decoded = decoded_writer.decode(source, Crops(SIZE, SCALE), folder)
    of_tars = datasets.open_source(f"webdataset:{tars}", str(folder), "train")
    bilinear, cache = {"shrink_by": "bilinear"}, {"cache": "decoded"}
    own: list[tuple[str, Source, Callable[[Pipeline, int], int], dict[str, str]]] = [
        ("naturel_jax", source, ours, {}),
        ("bilinear", source, ours, bilinear),
        ("decoded", decoded, ours, cache),
        ("decoded, bilinear", decoded, ours, cache | bilinear),
        ("decoded, copied", decoded, copied, cache | {"augment_on": "device"}),
        ("tars", of_tars, ours, {}),
    ]
    has = {name: bool(importlib.util.find_spec(name)) for name in ("tensorflow", "torchvision", "webdataset")}
    runs: dict[str, Callable[[], int]] = {"bare loop": functools.partial(bare, paths, epochs)}
    for number in threads:
        for name, read_from, batches, options in own:
            pipeline = training_pipeline(read_from, number, **options)
            repeats = _REPEATS if "cache" in options else 1
            runs[f"{name}, {number} threads"] = functools.partial(batches, pipeline, repeats * steps)
        if has["tensorflow"]:
            runs[f"tf.data, {number} threads"] = functools.partial(tf_data, paths, epochs, number)
        if has["webdataset"] and has["torchvision"]:
            for fast, how in ((False, ""), (True, " fast")):
                run = functools.partial(webdataset_loader, tars, epochs, number, fast)
                runs[f"webdataset{how}, {number} processes"] = run
    for number in workers:
        runs[f"naturel_jax, {number} processes"] = functools.partial(ours, training_pipeline(source, 1, number), steps)
    if has["torchvision"]:
        for number in [0, *workers]:
            runs[f"torch, {number} processes"] = functools.partial(torch_loader, paths, epochs, number)
    return runs


def measure(
    paths: list[Path], epochs: int, rounds: int, threads: list[int], workers: list[int]
) -> list[dict[str, Rate]]:
    """The rate of every variant in each round. The first compiles and imports, too."""
    runs = variants(paths, epochs, threads, workers)
    return [{name: rate(run) for name, run in runs.items()} for _ in range(rounds)]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument(
        "--epochs", type=int, default=2, help="passes over the images in a round; starting processes counts"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--workers", type=int, nargs="*", default=[])
    args = parser.parse_args(arguments)
    if args.images < BATCH:
        raise UserError(f"--images is {args.images}; expected at least one batch of {BATCH}")
    absl.flags.FLAGS.mark_as_parsed()  # Grain's reading processes read them
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), args.images)
        print(f"{args.images} JPEGs of {np.mean([p.stat().st_size for p in paths]) / 1e3:.0f} kB on average")
        _, *rounds = measure(paths, args.epochs, args.rounds + 1, args.threads, args.workers)
    print(f"{'of the bare loop':32}{'images/s':>10}{'images/CPU s':>14}")
    for name in rounds[0]:
        ratios = ([of[name][k] / of["bare loop"][k] for of in rounds] for k in (0, 1))
        print(f"{name:32}{statistics.median(next(ratios)):10.2f}{statistics.median(next(ratios)):14.2f}")


if __name__ == "__main__":
    cli.run(main)
