"""Everything that a reproduction downloads, on loopback: files of the true formats, names and layouts, with random
weights, generated photos and few items.

Models and Winoground are on a hub; all else is on a mirror (``NATUREL_MIRROR``). Two things are replaced in the
processes of the reproduction, by a ``sitecustomize.py``: the sizes and checksums of Open Images' tables, which no other
file can have, and the size of NegCLIP, which its file does not say.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import spacy
import torch

from naturel_jax.benchmarks import karpathy, vg_relation, winoground
from naturel_jax.benchmarks.registry import BENCHMARKS
from naturel_jax.benchmarks.sugarcrepe import SUBSETS
from naturel_jax.data.text.processor import Processor, train_tokenizer
from naturel_jax.models.families import family_of
from naturel_jax.models.presets import CLIP, SIGLIP
from naturel_jax.models.two_tower import TwoTowerConfig
from naturel_jax.report import published
from naturel_jax.reproduce import stages
from naturel_jax.reproduce.known import KNOWN
from naturel_jax.weights import processor_files
from tests.helpers import hub_server, loopback, reference_scores
from tests.helpers.benchmark_files import write
from tests.helpers.model_files import hf_model, openclip_model, random_params
from tests.helpers.open_images_files import image_id, photo, row, shown, write_release
from tfds_naturel.open_images.releases import IMAGES_URL, RELEASES
from tfds_naturel.scenes import twins
from tfds_naturel.scenes.scene import CONFIGS

VOCAB = 400
NEGCLIP = CLIP.config(size=48, patch=12, image=CLIP.tower(64, 2, 1), text=CLIP.tower(64, 2, 1), embed_dim=64)
MODELS = {  # hub name -> its sizes
    "openai/clip-vit-base-patch32": CLIP.config(
        size=48, patch=12, image=CLIP.tower(64, 2, 1), text=CLIP.tower(64, 2, 1), embed_dim=64, vocab=VOCAB, eos_id=1
    ),
    "google/siglip-base-patch16-224": SIGLIP.config(
        size=48, patch=12, image=SIGLIP.tower(64, 2, 1), text=SIGLIP.tower(64, 2, 1), vocab=VOCAB
    ),
}
ITEMS = 6  # of each of the benchmarks' files
TEST_IMAGES, TRAINING_IMAGES = 12, 40  # of COCO's Karpathy splits
SYMMETRIC = ("near", "next to")
CAPTIONS = ("a small cat on a red box", "a dog under the table", "two cups beside a green tree")
_SHIM = """
import sys
from tfds_naturel.open_images import releases

files = {{name: releases.OfficialFile(*fields) for name, fields in {files!r}.items()}}
releases.RELEASES["v4"] = releases.Release(**files)
if "naturel_jax.evaluate" in sys.orig_argv:
    from naturel_jax.models import presets

    small = presets.CLIP.tower(64, 2, 1)
    presets.PRESETS["negclip-b32"] = presets.CLIP.config(size=48, patch=12, image=small, text=small, embed_dim=64)
"""


@dataclasses.dataclass(frozen=True)
class World:
    """``environment``: for the processes of a reproduction. ``by_hand``: the files that nobody may download, as they go
    into a workdir. ``models``: hub name -> its folder. ``benchmarks``: the official files, for other programs.
    ``requested``: paths asked of the mirror so far."""

    environment: dict[str, str]
    by_hand: Path
    models: dict[str, Path]
    negclip: torch.nn.Module
    benchmarks: Path
    hub: hub_server.Hub
    requested: list[str]


@contextlib.contextmanager
def serve(folder: Path, photos: int) -> Iterator[World]:
    """Makes the files of ``photos`` annotated images and all else below ``folder``, and serves them."""
    mirror, benchmarks, shim = folder / "mirror", folder / "benchmarks", folder / "shim"
    files = _open_images(mirror, folder / "annotations", photos)
    _benchmarks(mirror, benchmarks)
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(_SHIM.format(files=files))
    _tagger(shim)
    by_hand = folder / "by_hand"
    negclip = _by_hand(by_hand, benchmarks)
    hub = hub_server.Hub()
    models = {name: _model(folder / "models" / name, config, benchmarks) for name, config in MODELS.items()}
    for name, path in models.items():
        hub.add(name, path)
    hub.repositories[winoground.SOURCE.hub.dataset] = {
        "data/examples.jsonl": (benchmarks / "winoground/data/examples.jsonl").read_bytes(),
        "data/images.zip": (benchmarks / "winoground/images.zip").read_bytes(),
    }
    with loopback.serve(mirror) as (address, requested), hub_server.serve(hub):
        paths = [f"{shim}", *filter(None, [os.environ.get("PYTHONPATH")])]
        more = {"NATUREL_MIRROR": address, "PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/xla", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
        environment = hub.environment(folder / "hub", **more, **cache)
        yield World(environment, by_hand, models, negclip, benchmarks, hub, requested)


def known(world: World, **changes: float) -> str:
    """The JSON of the known scores of the three checkpoints: what their own libraries score on the same files.
    ``changes``: metric -> another score, in place of CLIP's."""
    checkpoints = {}
    for key, one in KNOWN.items():
        repository = key.partition("@")[0]
        if repository in world.models:
            model = reference_scores.transformers_model(world.models[repository])
        else:
            model = reference_scores.openclip_model(world.negclip, NEGCLIP.image.size)
        root = world.benchmarks
        scores = reference_scores.scores(root, root / karpathy.COCO_FILE, SYMMETRIC, model)
        if one.name == "CLIP":
            scores |= changes
        fields = dataclasses.asdict(one) | {"scores": scores, "items": _items(root)}
        checkpoints[key] = fields
    return json.dumps(checkpoints)


def _items(root: Path) -> dict[str, dict[str, object]]:
    """The item sets of the known scores."""
    rows = [
        (f"{subset}/{number}", (row["caption"], row["negative_caption"]))
        for subset in SUBSETS
        for number, row in json.loads((root / f"sugarcrepe/{subset}.json").read_text()).items()
    ]
    items = {"sugarcrepe": {"number": len(rows), "digest": published.digest(rows)}}
    numbers = {"winoground": ITEMS, "vg_relation": ITEMS, "coco_retrieval": TEST_IMAGES}
    return items | {name: {"number": number} for name, number in numbers.items()}


def put(mirror: Path, url: str, data: bytes) -> None:
    """Serves ``data`` in place of ``url``."""
    path = mirror / unquote(url.partition("://")[2])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _open_images(mirror: Path, folder: Path, photos: int) -> dict[str, tuple[str, int, str]]:
    """The tables and photos; returns path, size and MD5 of each table, by its field of ``Release``."""
    write_release(folder, [row(n, *triplet) for n in range(photos) for triplet in shown(n)], images=range(photos))
    for n in range(photos):
        put(mirror, f"{IMAGES_URL}/train/{image_id(n)}.jpg", photo(n, 160, 120))
    described = {}
    for field in dataclasses.fields(RELEASES["v4"]):
        file = getattr(RELEASES["v4"], field.name)
        data = (folder / file.name).read_bytes()
        put(mirror, file.url, data)
        described[field.name] = (file.path, len(data), hashlib.md5(data).hexdigest())
    return described


def _benchmarks(mirror: Path, folder: Path) -> None:
    """Twins of Winoground, ARO and SugarCrepe on drawn scenes; COCO's Karpathy splits on generated photos."""
    twins.write(folder, CONFIGS["scenes"], 0, ITEMS)
    (folder / vg_relation.EXCLUDED).unlink()
    notebook = {"cells": [{"source": [f"symmetric = {list(SYMMETRIC)}\n"]}]}
    put(mirror, vg_relation.SOURCE.files[vg_relation.EXCLUDED], json.dumps(notebook).encode())
    (tags,) = winoground.SOURCE.files.values()
    put(mirror, tags, json.dumps({f"{n}": ["Unusual Text"] for n in range(ITEMS)}).encode())
    for path, url in BENCHMARKS["sugarcrepe"].SOURCE.files.items():
        put(mirror, url, (folder / path).read_bytes())
    for image in (folder / "coco/val2017").iterdir():
        put(mirror, f"http://images.cocodataset.org/val2017/{image.name}", image.read_bytes())
    for split, name, images in (("test", "val2014", TEST_IMAGES), ("train", "train2014", TRAINING_IMAGES)):
        rows = []
        for n in range(images):
            file = f"{name}/COCO_{name}_{n:012d}.jpg"
            data = photo((1000 if split == "test" else 2000) + n, 160, 120)
            put(mirror, f"http://images.cocodataset.org/{file}", data)
            if split == "test":
                write(folder / "coco" / file, data)
            captions = [f"{n} {caption}" for caption in CAPTIONS[:2]]
            rows += (
                [{"image": file, "caption": captions}]
                if split == "test"
                else [{"image": file, "caption": caption, "image_id": f"coco_{n}"} for caption in captions]
            )
        put(mirror, f"{karpathy.FILES}/coco_karpathy_{split}.json", json.dumps(rows).encode())
        if split == "test":
            write(folder / karpathy.COCO_FILE, rows)


def _model(folder: Path, config: TwoTowerConfig, benchmarks: Path) -> Path:
    """Writes transformers' files of a model with random weights, and a tokenizer for the captions of the benchmarks."""
    family = family_of(config)
    rows = [row for path in benchmarks.glob("sugarcrepe/*.json") for row in json.loads(path.read_text()).values()]
    texts = [row[field] for row in rows for field in ("caption", "negative_caption")]
    texts += [
        caption for row in json.loads((benchmarks / karpathy.COCO_FILE).read_text()) for caption in row["caption"]
    ]
    tokenizer = train_tokenizer(family.name, texts, VOCAB, config.text.context)
    processor = Processor(tokenizer, config.text.context, config.image.size, **family.pixels)
    hf_model(config, random_params(config)).save_pretrained(folder)
    processor_files.write(folder, processor, family)
    (folder / processor_files.OWN).unlink()  # as in a folder that was not written by us
    return folder


def _by_hand(folder: Path, benchmarks: Path) -> torch.nn.Module:
    """Writes what nobody may download; returns NegCLIP."""
    (folder / "files").mkdir(parents=True)
    shutil.copytree(benchmarks / "aro", folder / "files" / "aro")
    (folder / "weights").mkdir()
    model = openclip_model(NEGCLIP, random_params(NEGCLIP))
    torch.save({"state_dict": model.state_dict()}, folder / "weights" / "negclip.pth")
    return model


def _tagger(folder: Path) -> None:
    """spaCy's small English model as pip installs it, with rules for the words of ``CAPTIONS``."""
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("attribute_ruler")
    for words, tag in ((("cat", "box", "dog", "table", "cups", "tree"), "NN"), (("small", "red", "green"), "JJ")):
        ruler.add([[{"LOWER": word}] for word in words], {"TAG": tag})
    pipeline.meta.update({"name": "core_web_sm", "version": "3.8.0"})
    package = folder / stages.MODEL
    package.mkdir()
    pipeline.to_disk(package / f"{stages.MODEL}-3.8.0")
    (package / "meta.json").write_text(json.dumps(pipeline.meta))
    code = "from spacy.util import load_model_from_init_py\n\n\ndef load(**options):\n"
    (package / "__init__.py").write_text(f"{code}    return load_model_from_init_py(__file__, **options)\n")
    installed = folder / f"{stages.MODEL}-3.8.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {stages.MODEL}\nVersion: 3.8.0\n")
