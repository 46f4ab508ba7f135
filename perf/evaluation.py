"""SugarCrepe, SugarCrepe++ and NegBench over the same photos, and VG-Relation, in their real sizes and formats but with
generated photos: B/32 with random weights, evaluated by us and by a PyTorch loop over the suites like those of the
benchmarks' own scripts (OpenCLIP, one item or a batch of 32 at a time, no sharing).

    python -m perf.evaluation                                  # 42,119 items; hours on a CPU, because of the loop
    python -m perf.evaluation --share 0.003 --batch_size 16    # that share of images and items, and smaller batches

On a busy machine, pin it to one core (``taskset -c 0``): where other work takes turns on the cores, threads wait for
each other in every small batch, so the loop looks slower than it is.

Prints the seconds both take, their ratio, how many photos and crops there are, how many each decodes, and the largest
difference between cosines. Needs the ``torch`` extra.
"""

import argparse
import csv
import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import open_clip
import torch
from PIL import Image

from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.benchmarks.sugarcrepe import SUBSETS
from naturel_jax.data.text.processor import Processor
from naturel_jax.evaluators.cache import CachedEncoder
from naturel_jax.evaluators.embed import cosines, load_encoder
from tfds_naturel.common import cli

SIZES = (692, 2062, 788, 1652, 1406, 666, 245)  # add_att ... swap_obj, as published
SUBSET_SIZES = dict(zip(sorted(SUBSETS), SIZES, strict=True))
CAPTIONS = 4_346  # distinct captions among the 7,511 of the published files, of 10.7 words on average
CAPTION = "A {a} and a {b} are in front of the {c}."
PLUS_SIZES = {"replace_att": 788, "replace_obj": 1652, "replace_rel": 1406, "swap_att": 666, "swap_obj": 245}
NEGBENCH, NEGBENCH_IMAGES = 5_914, 3_926
VG_RELATION = 23_937
# 1,560 of COCO's are SugarCrepe's, and nearly all of them SugarCrepe++'s; NegBench has all others and some of these.
IMAGES = {"coco/val2017": 4_260, "aro/images": 1_603}
SUGARCREPE_IMAGES = 1_560
SUITES = {"sugarcrepe": 1, "sugarcrepe_pp": 1, "negbench_coco": 1, "vg_relation": 32}  # -> the loop's items at a time
ITEMS_PER_BOX = 2  # the relations of one pair of objects share their box: "on" and "under", "with" both ways
NOUNS = [
    "man",
    "woman",
    "dog",
    "cat",
    "horse",
    "table",
    "chair",
    "cup",
    "bottle",
    "car",
    "tree",
    "shirt",
    "hat",
    "ball",
    "bench",
    "plate",
    "street",
    "wall",
    "window",
    "bus",
]
RELATIONS = ("on", "under", "to the left of", "to the right of", "behind", "holding", "wearing", "inside")


def photo(rng: np.random.Generator) -> bytes:
    """A JPEG of 640 x 480 with about the bytes of a COCO photo."""
    coarse = rng.integers(0, 256, (30, 40, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC), np.int16)
    pixels = np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def write(root: Path, share: float) -> None:
    """The official files of the benchmarks, over generated photos."""
    rng = np.random.default_rng(0)
    for folder, number in IMAGES.items():
        (root / folder).mkdir(parents=True)
        for n in range(max(1, round(number * share))):
            (root / folder / f"{n}.jpg").write_bytes(photo(rng))
    for folder in ("sugarcrepe", "sugarcrepe_pp", "negbench"):
        (root / folder).mkdir()
    images = max(1, round(SUGARCREPE_IMAGES * share))
    captioned = [_captioned(rng, images) for _ in range(round(CAPTIONS * share))]
    for subset in SUBSETS:
        rows = {str(n): _pair(rng, captioned) for n in range(max(1, round(SUBSET_SIZES[subset] * share)))}
        (root / "sugarcrepe" / f"{subset}.json").write_text(json.dumps(rows))
    for subset, size in PLUS_SIZES.items():
        pairs = [_pair(rng, captioned) for _ in range(max(1, round(size * share)))]
        rows = [{"id": n, **pair, "caption2": f"There: {pair['caption']}"} for n, pair in enumerate(pairs)]
        (root / "sugarcrepe_pp" / f"{subset}.json").write_text(json.dumps(rows))
    with (root / "negbench" / "COCO_val_mcq_llama3.1_rephrased.csv").open("w", newline="") as file:
        captions = [f"caption_{k}" for k in range(4)]
        table = csv.DictWriter(file, ["image_path", "correct_answer", *captions, "correct_answer_template"])
        table.writeheader()
        last = max(1, round(IMAGES["coco/val2017"] * share)) - 1
        for n in range(round(NEGBENCH * share)):
            choices = dict(zip(captions, (CAPTION.format(**_captioned(rng, 1)[1]) for _ in captions), strict=True))
            name = f"{last - n % max(1, round(NEGBENCH_IMAGES * share))}.jpg"
            table.writerow({"image_path": name, "correct_answer": 0, **choices, "correct_answer_template": "hybrid"})
    rows = []
    for n in range(round(VG_RELATION * share)):
        if n % ITEMS_PER_BOX == 0:
            name = f"{rng.integers(max(1, round(IMAGES['aro/images'] * share)))}.jpg"
            x, y = int(rng.integers(300)), int(rng.integers(200))
            box = {"bbox_x": x, "bbox_y": y, "bbox_w": int(rng.integers(80, 340)), "bbox_h": int(rng.integers(80, 280))}
        (a, b), relation = rng.choice(NOUNS, 2, replace=False), str(rng.choice(RELATIONS))
        captions = {"true_caption": f"the {a} is {relation} the {b}", "false_caption": f"the {b} is {relation} the {a}"}
        rows.append({"image_path": name, "relation_name": relation, **box, **captions})
    (root / "aro" / "visual_genome_relation.json").write_text(json.dumps(rows))
    (root / "aro" / "vgr_excluded_relations.json").write_text("[]")


def _captioned(rng: np.random.Generator, images: int) -> tuple[str, dict[str, str]]:
    """The name of an image, and the words of one of its captions."""
    return f"{rng.integers(images)}.jpg", dict(zip("abc", map(str, rng.choice(NOUNS, 3, replace=False)), strict=True))


def _pair(rng: np.random.Generator, captioned: Sequence[tuple[str, dict[str, str]]]) -> dict[str, str]:
    """A record of SugarCrepe: a caption, and the same with another word."""
    filename, words = captioned[rng.integers(len(captioned))]
    wrong = {**words, str(rng.choice(list(words))): f"wrong {rng.integers(1_000)}"}
    caption, negative = (CAPTION.format(**nouns) for nouns in (words, wrong))
    return {"filename": filename, "caption": caption, "negative_caption": negative}


def timed(work: Callable[[], list[np.ndarray]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Seconds of wall time and of all cores (more reliable on a shared machine), then the result."""
    start = time.perf_counter(), time.process_time()
    result = work()
    return np.array([time.perf_counter() - start[0], time.process_time() - start[1]]), result


def loop(benchmark: Benchmark, model: torch.nn.Module, preprocess, tokenizer, batch: int) -> list[np.ndarray]:
    """Each item by itself: its image opened, cropped and encoded, its captions padded to 77 tokens and encoded."""
    matrices = []
    for start in range(0, len(benchmark.items), batch):
        items = benchmark.items[start : start + batch]
        images = [Image.open(io.BytesIO(item.images[0].read())).convert("RGB") for item in items]
        crops = [
            image.crop(item.images[0].box) if item.images[0].box else image
            for image, item in zip(images, items, strict=True)
        ]
        with torch.no_grad():
            zimg_ID = model.encode_image(torch.stack([preprocess(crop) for crop in crops]), normalize=True)
            texts = tokenizer([caption for item in items for caption in item.captions])
            ztxt_ICD = model.encode_text(texts, normalize=True).reshape(len(items), -1, zimg_ID.shape[1])
        for item, zimg_D, ztxt_CD in zip(items, zimg_ID, ztxt_ICD, strict=True):
            rows = torch.cat([zimg_D[None], ztxt_CD]) if item.caption_rows else zimg_D[None]
            matrices.append((rows @ ztxt_CD.T).numpy())
    return matrices


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the images and items")
    parser.add_argument("--batch_size", type=int, default=64, help="ours")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, options.share)
        torch.manual_seed(0)
        model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32-quickgelu", force_quick_gelu=True)
        model.eval()
        torch.save(model.state_dict(), root / "b32.pt")
        encoder, params = load_encoder(f"clip-b32:{root / 'b32.pt'}", dtype="float32", batch_size=options.batch_size)
        embedder = CachedEncoder(encoder, params, root / "embeddings")
        tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")
        total, decodes, distinct = np.zeros((2, 2)), np.zeros(2, int), set()
        suites = {name: registry.read([name], files=root)[0] for name in SUITES}
        compiling, _ = timed(lambda: cosines(suites["vg_relation"].items[:2], encoder.with_params(params))[1])
        print(f"compiled in {compiling[0]:.1f} s, which the times below leave out", flush=True)
        for name, benchmark in suites.items():
            with mock.patch.object(Processor, "image", autospec=True, side_effect=Processor.image) as decode:
                ours, matrices = timed(lambda b=benchmark: cosines(b.items, embedder)[1])
            theirs, expected = timed(lambda b=benchmark, n=SUITES[name]: loop(b, model, preprocess, tokenizer, n))
            total += ours, theirs
            decodes += decode.call_count, len(benchmark.items)
            distinct |= {(image.key, image.box) for item in benchmark.items for image in item.images}
            worst = max(np.abs(m - e).max() for m, e in zip(matrices, expected, strict=True))
            scores = [benchmark.score(benchmark.items, found) for found in (matrices, expected)]
            moved = max(abs(scores[0][metric].value - scores[1][metric].value) for metric in scores[0])
            print(
                f"{name}: {len(benchmark.items):,} items; {decode.call_count:,} decoded, by the loop all; "
                f"{compared(ours, theirs)}; cosines differ by {worst:.1e}, scores by {moved:.4f}",
                flush=True,
            )
        print(
            f"all: {len(distinct):,} photos and crops, of which ours decodes {decodes[0]:,}, the loop {decodes[1]:,}; "
            f"{compared(*total)}"
        )


def compared(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Both times and their ratio, in wall time and in the time of all cores."""
    return ", ".join(
        f"{what}: ours {a:.1f} s, PyTorch loop {b:.1f} s, {b / a:.1f} times"
        for what, a, b in zip(("clock", "cores"), ours, theirs, strict=True)
    )


if __name__ == "__main__":
    cli.run(main)
