"""Every reader of files from elsewhere: how to write sound files for it, and how to read them. ``names`` finds them in
the product's own tables, so that a new one without a row here fails by name."""

import collections
import functools
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import torch
from etils import epath
from PIL import Image

import naturel_jax
import tfds_naturel
from naturel_jax import storage, weights
from naturel_jax.benchmarks import own, registry
from naturel_jax.config import Adapter
from naturel_jax.config.own_benchmarks import BenchmarkFields, parse_name
from naturel_jax.config.record_fields import Fields
from naturel_jax.data import datasets
from naturel_jax.data.batches import hard_images
from naturel_jax.data.images import decode
from naturel_jax.data.images.augment import Encoded
from naturel_jax.data.images.boxes import Box
from naturel_jax.data.items import index_writer
from naturel_jax.data.text.processor import Processor
from naturel_jax.evaluators import results
from naturel_jax.evaluators.pool.embedded import EmbeddedPool
from naturel_jax.models import adapters
from naturel_jax.models.two_tower import Model
from naturel_jax.report import gallery
from naturel_jax.report.compare import markdown
from naturel_jax.report.pairs import judge
from naturel_jax.storage import once
from naturel_jax.weights import export, hf, peft, processor_files, sources, tables, tensors, torch_files
from tests.helpers.benchmark_files import MAKERS, SAME_READER, png
from tests.helpers.image_files import photo
from tests.helpers.model_files import save_hf, sentencepiece_model, tiny
from tests.helpers.record_files import FORMATS
from tfds_naturel.captions import bank, decisions
from tfds_naturel.common import photos
from tfds_naturel.hard_images import mining
from tfds_naturel.naturel import RECIPE_SOURCES
from tfds_naturel.open_images import plan
from tfds_naturel.sources.examples import examples


class Reader(NamedTuple):
    """``write(folder)`` writes sound files and returns those that others are put in place of; ``read(folder)`` uses
    them. ``kind``: of bombs, see ``bombs``. ``allowed``: errors besides UserError and OSError."""

    kind: str
    write: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], object]
    allowed: tuple[type[Exception], ...] = ()


# ---- Sources and user-defined benchmarks -----------------------------------------------------------------------------


_NAMES = {"folder": "", "parquet": "part-*.parquet", "hf": "saved", "webdataset": "{0000..0002}.tar"}


def _source_files(prefix: str, folder: Path) -> list[Path]:
    FORMATS[prefix][0](folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "photos"]
    kept = {"tfds": "array_record", "tfrecord": ".tfrecord-", "hf": ".arrow"}.get(prefix, "")
    return [path for path in files if kept in path.name]


def _read_source(prefix: str, folder: Path) -> None:
    name, fields = folder / _NAMES.get(prefix, f"my.{prefix}"), Fields(**FORMATS[prefix][1])
    source = "tfds:pictured" if prefix.startswith("tf") else f"{prefix}:{name}"
    table = datasets.open_unindexed(source, str(folder / "data"), "train")
    shutil.rmtree(folder / "index", ignore_errors=True)
    index_writer.build(table, fields, folder / "index", workers=1)


ROWS = [{"image": "a.png", "caption": "a cat", "negatives": ["a dog"]}]
GROUPS = [{"image_0": "a.png", "image_1": "a.png", "caption_0": "a cat", "caption_1": "a dog"}]


def _own_files(kind: str, suffix: str, folder: Path) -> list[Path]:
    (folder / "a.png").write_bytes(png(1))
    rows, path = GROUPS if kind == "groups" else ROWS, folder / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "\t" if suffix == ".tsv" else ","
        cells = [mark.join(map(str, row.values())) for row in rows]
        path.write_text("\n".join([mark.join(rows[0]), *cells]) + "\n")
    return [path]


def _class_files(folder: Path) -> list[Path]:
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        (folder / name / "a.png").write_bytes(png(1))
    (folder / "templates.txt").write_text("a photo of a {}.\n")
    return [folder / "templates.txt"]


def _read_own(kind: str, suffix: str, folder: Path) -> None:
    name = folder if kind == "classes" else folder / f"rows{suffix}"
    mine = parse_name(f"my={kind}:{name}")
    assert mine
    own.read(mine, BenchmarkFields())


# ---- Benchmarks and recipes ------------------------------------------------------------------------------------------


def _tags(texts: Sequence[str]) -> list[list[tuple[str, str]]]:
    """In place of spaCy's."""
    return [[(word, "NN") for word in text.split()] for text in texts]


def _benchmark_files(name: str, folder: Path) -> list[Path]:
    MAKERS[name](folder)
    return [path for path in sorted(folder.rglob("*.*")) if path.suffix not in (".png", ".jpg")]


def read_benchmark(name: str, root: Path) -> None:
    """Reads, reads every image (which may fail with OSError or ValueError), and scores."""
    with mock.patch("naturel_jax.benchmarks.order.spacy_tags", _tags):
        benchmark = registry.read([name], files=root)[0]
    for item in benchmark.items:
        for image in item.images:
            try:
                assert isinstance(image.read(), bytes)
            except (OSError, ValueError):
                continue
    for captions in {id(item.captions): item.captions for item in benchmark.items}.values():  # retrieval's share them
        for caption in captions:
            "".join(caption).encode()
    if 0 < len(benchmark.items) <= 100:
        rows = [len(item.images) + len(item.captions) * item.caption_rows for item in benchmark.items]
        cosines = [np.zeros((n, len(item.captions))) for n, item in zip(rows, benchmark.items, strict=True)]
        assert all(0 <= score.value <= 1 for score in benchmark.score(benchmark.items, cosines).values())
    assert all("\n" not in problem for problem in benchmark.problems)


_COCO = "train2014/COCO_train2014_000000000001.jpg"


def _recipe_files(name: str, folder: Path) -> list[Path]:
    image = folder / _COCO
    image.parent.mkdir(parents=True)
    image.write_bytes(photo(96, 64))
    (folder / "coco_karpathy_train.json").write_text(json.dumps([{"image": _COCO, "caption": "a man rides a horse"}]))
    rows = ["title\tfilepath\tneg_caption\tneg_image", f"A man\t/home/author/{_COCO}\t['Man a.']\t[0]"]
    (folder / "train_neg_clip.tsv").write_text("\n".join(rows) + "\n")
    (folder / "data").mkdir()
    items = [{"id": n} | {f"{what}_{k}": f"{n} {k}" for what in ("image", "caption") for k in (0, 1)} for n in range(8)]
    (folder / "data/examples.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for n in range(8):
            for k in (0, 1):
                archive.writestr(f"{n} {k}.png", png(n))
    files = {"coco_order": ["coco_karpathy_train.json"], "negclip_tsv": ["train_neg_clip.tsv"]}
    return [folder / file for file in files.get(name, ["data/examples.jsonl", "images.zip"])]


def _read_recipe(name: str, folder: Path) -> None:
    (source,) = [source for source in RECIPE_SOURCES if source.name == name]
    with mock.patch("tfds_naturel.captions.word_order.spacy_tags", _tags):
        collections.deque(examples(source, folder), 0)
    collections.deque(source.used(folder), 0)
    if source.hard_images:
        collections.deque(source.hard_images(folder), 0)


# ---- Weights, tokenizers, processors ---------------------------------------------------------------------------------

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.ones(3).half(), "d": torch.ones(2, 2).bfloat16().t()}
ARRAYS = {key: value.float().numpy() for key, value in STATE.items()}


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2)).half()), path)


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **ARRAYS)


def _sharded(path: Path) -> None:
    safetensors.numpy.save_file(ARRAYS, path.parent / "model-1.safetensors")
    path.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(ARRAYS, "model-1.safetensors")}))


# Form of a file -> its writer and its opener; several are read by one opener.
TENSOR_FILES: dict[str, tuple[Callable[[Path], object], Callable[[Path], tensors.Tensors]]] = {
    "safetensors": (lambda path: safetensors.numpy.save_file(ARRAYS, path), tensors.open_safetensors),
    "torch": (lambda path: torch.save({"state_dict": STATE, "epoch": 3}, path), torch_files.open_torch),
    "old torch": (
        lambda path: torch.save(STATE, path, _use_new_zipfile_serialization=False),
        torch_files.open_torch,
    ),
    "TorchScript": (_script, torch_files.open_torch),
    "npz": (_npz, tensors.open_npz),
    "index.json": (_sharded, lambda path: tensors.open_sharded(path, tensors.open_safetensors)),
}


def _tensor_file(kind: str, folder: Path) -> list[Path]:
    TENSOR_FILES[kind][0](folder / "file")
    return [folder / "file"]


def _read_tensors(kind: str, folder: Path) -> None:
    opened = TENSOR_FILES[kind][1](folder / "file")
    for key, shape in opened.shapes.items():
        assert opened.get(key).shape == shape


def use(processor: Processor) -> None:
    processor.tokenize(["a cat under the table", ""])
    processor.image(png(0))


def find(folder: Path) -> None:
    """Everything that precedes reading the tensors."""
    found = weights.find(str(folder))
    tables.check_keys(found.tensors.name, found.table, Model(found.config).shapes(), found.tensors.shapes)
    use(found.processor)


_MODELS = {"clip": "tiny-clip", "siglip": "tiny-siglip", hf.NAFLEX: "tiny-naflex"}


def _model_files(model_type: str, folder: Path) -> list[Path]:
    save_hf(folder / "model", _MODELS[model_type])
    return [folder / "model/config.json", folder / "model/preprocessor_config.json"]


def _exported(form: str, own_processor: bool, folder: Path) -> list[Path]:
    export.save(folder / "model", *tiny("tiny-clip"), form=form)
    if own_processor:
        return [folder / "model" / processor_files.OWN]
    (folder / "model" / processor_files.OWN).unlink()
    return [folder / "model/open_clip_config.json"]


def _adapter_files(folder: Path) -> list[Path]:
    config, params, processor = tiny("tiny-clip")
    export.save(folder / "base", config, params, processor, form="hf")
    tree = adapters.shapes(params, 2, (".*/attn/query",))
    tree = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), tree)
    adapter = weights.Adapter(tree, Adapter(rank=2), str(folder / "base"), adapters.digest(params))
    export.save(folder / "model", config, params, processor, form="peft", adapter=adapter)
    return [folder / "model" / peft.CONFIG_FILE]


def _tokenizer_files(name: str, folder: Path) -> list[Path]:
    model = save_hf(folder / "model", "tiny-siglip" if name == "spiece.model" else "tiny-clip")
    whole = model / "tokenizer.json"
    if name == whole.name:
        return [whole, model / "tokenizer_config.json"]
    state = json.loads(whole.read_text())
    whole.unlink()
    if name == "spiece.model":
        (model / "tokenizer_config.json").unlink()  # that of the other tokenizer
        (model / name).write_bytes(sentencepiece_model(["the cat is under the table"] * 20, 40))
        return [model / name]
    (model / "vocab.json").write_text(json.dumps(state["model"]["vocab"]))
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in state["model"]["merges"]]
    (model / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    return [model / "vocab.json", model / "merges.txt"]


def _find(folder: Path) -> None:
    find(folder / "model")


# ---- Images ----------------------------------------------------------------------------------------------------------


def _image_file(form: str, folder: Path) -> list[Path]:
    Image.open(io.BytesIO(photo(64, 48))).save(folder / "image", form)
    return [folder / "image"]


@functools.cache
def _processor() -> Processor:
    """CLIP's, which resizes the short side."""
    return Processor("{}", 8, 224, "short", "bicubic", (0.5,) * 3, (0.5,) * 3, to_rgb="on_white")


def _read_evaluated(folder: Path) -> None:
    assert _processor().image((folder / "image").read_bytes()).shape == (224, 224, 3)


def _read_trained_on(folder: Path) -> None:
    encoded = Encoded.of((folder / "image").read_bytes())
    side = min(encoded.width, encoded.height)
    encoded.fill(Box(0, 0, side, side), np.empty((224, 224, 3), np.uint8), "area")


def _read_thumbnail(folder: Path) -> None:
    decode.open_image((folder / "image").read_bytes())


def _read_photo(folder: Path) -> None:
    data = (folder / "image").read_bytes()
    photos.to_jpeg(data, 32, 90)
    if data.startswith(b"\xff\xd8"):
        photos.inspect(data)


# ---- Inputs of reports and builds ------------------------------------------------------------------------------------


def _compared(folder: Path) -> list[Path]:
    found = []
    for model in ("a", "b"):
        place = results.folder_of(folder, model, "vg_relation")
        place.mkdir(parents=True)
        row = {"id": "1", "images": ["p"], "boxes": [[0, 0, 9, 9]], "captions": ["a cat on a mat", "a mat on a cat"]}
        row |= {
            "cosines": [0.1, 0.2],
            "tags": '{"relation": "on"}',
            "weight": 1.0,
            "captions_hash": None,
            "outcome/right": float(model == "a"),
        }
        kinds = {"boxes": pa.list_(pa.list_(pa.int32())), "cosines": pa.list_(pa.float32())}
        kinds |= {"weight": pa.float32(), "captions_hash": pa.int64()}
        table = pa.table({name: pa.array([value], kinds.get(name)) for name, value in row.items()})
        result = results.Result(model, "vg_relation", "", 1, 1, 0, (), {}, {})
        results.write(epath.Path(place), result, table)
        found.append(place / "items.parquet")
    return found


def _compare(folder: Path) -> None:
    for model in ("a", "b"):  # whoever changes the rows can write their checksum, too
        place = results.folder_of(folder, model, "vg_relation")
        rows, scores = {"rows": once.checksum(place / "items.parquet")}, epath.Path(place / "scores.json")
        storage.write_json(scores, storage.read_json(scores) | rows)
    pairs = judge([results.load_items(folder, model, "vg_relation") for model in ("a", "b")], ["right"])
    if pairs:
        markdown("a", "b", "vg_relation", pairs)
        gallery.write(folder / "page.html", ("a", "b"), "vg_relation", pairs, {})


def _bank(folder: Path) -> list[Path]:
    bank.save(folder / "bank.tsv", dict(list(bank.load().items())[:4]))
    return [folder / "bank.tsv"]


def _decisions(folder: Path) -> list[Path]:
    rows = "triplet,text,decision\nCat|on|Table,a cat,accept\nDog|on|Table,a dog,reject\n"
    (folder / "decisions.csv").write_text(rows)
    return [folder / "decisions.csv"]


def _label_studio(folder: Path) -> list[Path]:
    data = {"triplet": "Cat|on|Table", "positive": "a cat", "negative": "a dog"}
    result = [{"from_name": "negative", "to_name": "n", "type": "choices", "value": {"choices": ["reject"]}}]
    task = {"id": 1, "data": data, "annotations": [{"completed_by": 1, "result": result, "was_cancelled": False}]}
    (folder / "export.json").write_text(json.dumps([task]))
    return [folder / "export.json"]


def _takedown(folder: Path) -> list[Path]:
    (folder / "takedown.txt").write_text("# asked for\n0123456789abcdef\n")
    return [folder / "takedown.txt"]


def _hard_images(folder: Path) -> list[Path]:
    path = folder / "hard_images.parquet"
    mining.save(path, [("a", "Cat|on|Table", ["b", "c"], ["subject", "object"]), ("b", "Cat|on|Table", ["c"], ["x"])])
    return [path]


def _pool(name: str, folder: Path) -> list[Path]:
    (folder / "img_emb").mkdir()
    (folder / "metadata").mkdir()
    np.save(folder / "img_emb/img_emb_0000.npy", np.eye(4, 3, dtype=np.float16))
    pq.write_table(pa.table({"image_path": list("abcd")}), folder / "metadata/metadata_0000.parquet")
    return [folder / name]


def _read_pool(folder: Path) -> None:
    pool = EmbeddedPool(folder)
    list(pool.names()), list(pool.blocks(2)), pool[np.arange(len(pool))]


# ---- All of them -----------------------------------------------------------------------------------------------------

_KINDS = {".parquet": "parquet", ".jsonl": "lines", ".csv": "table", ".tsv": "table"}
_SOURCE_KINDS = {"csv": "table", "jsonl": "lines", "parquet": "parquet", "hf": "arrow", "webdataset": "tar"}
_TENSOR_KINDS = {"torch": "pickle", "old torch": "pickle", "TorchScript": "pickle", "npz": "zip"}
_BENCHMARK_KINDS = {
    **{"bivlc": "parquet", "urban1k": "text", "crossmodal3600_en": "lines"},
    **dict.fromkeys(("negbench_coco", "negbench_coco_retrieval", "crepe_atom"), "table"),
}
_OPENED = {".safetensors": "safetensors", ".bin": "torch", ".pt": "TorchScript", ".pth": "old torch", ".npz": "npz"}


def _readers() -> Iterator[tuple[str, Reader]]:
    partial = functools.partial
    for prefix in FORMATS:
        kind = _SOURCE_KINDS.get(prefix, "bytes")
        yield f"source {prefix}", Reader(kind, partial(_source_files, prefix), partial(_read_source, prefix))
    for suffix, kind in _KINDS.items():
        for what in ("pairs", "groups", "retrieval"):
            yield (
                f"own benchmark {what}{suffix}",
                Reader(kind, partial(_own_files, what, suffix), partial(_read_own, what, suffix)),
            )
    yield "own benchmark classes", Reader("text", _class_files, partial(_read_own, "classes", ""))
    for name in sorted(MAKERS.keys() - {*SAME_READER}):
        kind = _BENCHMARK_KINDS.get(name, "json")
        yield f"benchmark {name}", Reader(kind, partial(_benchmark_files, name), partial(read_benchmark, name))
    for name, kind in (("coco_order", "json"), ("negclip_tsv", "table"), ("winoground_part", "json")):
        yield f"recipe {name}", Reader(kind, partial(_recipe_files, name), partial(_read_recipe, name))
    for name in TENSOR_FILES:
        kind = _TENSOR_KINDS.get(name, "json")
        yield f"tensors {name}", Reader(kind, partial(_tensor_file, name), partial(_read_tensors, name))
    for model_type in _MODELS:
        yield f"model {model_type}", Reader("config", partial(_model_files, model_type), _find)
    yield "model peft", Reader("config", _adapter_files, _find)
    yield "model openclip", Reader("config", partial(_exported, "openclip", False), _find)
    for name, kind in (("tokenizer.json", "tokenizer"), ("spiece.model", "bytes"), ("vocab.json", "vocab")):
        yield f"tokenizer {name}", Reader(kind, partial(_tokenizer_files, name), _find)
    yield f"tokenizer {processor_files.OWN}", Reader("processor", partial(_exported, "hf", True), _find)
    for form in decode._FORMATS:
        for use_of, read in (
            ("evaluated", _read_evaluated),
            ("trained on", _read_trained_on),
            ("shown", _read_thumbnail),
        ):
            yield f"image {form}, {use_of}", Reader(f"image {form}", partial(_image_file, form), read, (ValueError,))
    for form in ("JPEG", "PNG"):
        yield f"photo {form}", Reader(f"image {form}", partial(_image_file, form), _read_photo, (photos.BadPhoto,))
    yield "pool array", Reader("bytes", partial(_pool, "img_emb/img_emb_0000.npy"), _read_pool)
    yield "pool names", Reader("parquet", partial(_pool, "metadata/metadata_0000.parquet"), _read_pool)
    yield "compare", Reader("parquet", _compared, _compare)
    yield "caption bank", Reader("table", _bank, lambda folder: bank.load(folder / "bank.tsv"))
    yield "decisions", Reader("table", _decisions, lambda folder: decisions.rejected([folder / "decisions.csv"]))
    yield "Label Studio", Reader("json", _label_studio, lambda folder: decisions.rejected([folder / "export.json"]))
    yield "takedown list", Reader("text", _takedown, lambda folder: plan.taken_down(folder / "takedown.txt"))
    read = lambda folder: hard_images.read(folder / "hard_images.parquet", ["a", "b", "c"])  # noqa: E731
    yield "hard images", Reader("parquet", _hard_images, read)


READERS = dict(_readers())


def names() -> set[str]:
    """The readers that the product's own tables have."""
    found = {f"source {prefix}" for prefix in datasets.SOURCES}
    found |= {f"own benchmark {kind}{suffix}" for kind in own.READERS for suffix in own.OPENERS if kind != "classes"}
    found |= {"own benchmark classes"} if "classes" in own.READERS else set()
    found |= {f"benchmark {name}" for name in registry.BENCHMARKS if not registry.reads_dataset(name)}
    found -= {f"benchmark {name}" for name in SAME_READER}
    found |= {f"recipe {source.name}" for source in RECIPE_SOURCES}
    found |= {f"tensors {_OPENED.get(suffix, suffix)}" for suffix in sources._OPENERS} | {"tensors index.json"}
    found |= {f"model {model_type}" for model_type in hf.TABLES} | {"model openclip", "model peft"}
    found |= {f"tokenizer {name}" for name in (*processor_files.TOKENIZER_FILES, processor_files.OWN)}
    found |= {f"image {form}, {what}" for form in decode._FORMATS for what in ("evaluated", "trained on", "shown")}
    return found


# What opens a file's content. A module that calls one of these reads files.
_PRIMITIVES = re.compile(
    r"\b(parse_json|load_json|load_json_lines|read_json|csv\.(?:Dict)?[rR]eader|parquet_batches|stream_batches|decoded|"
    r"Image\.open|zipfile\.ZipFile|check_archive|tarfile\.open|np\.load|decode_jpeg|from_str|SentencePieceProcessor|"
    r"pickled\.load|gzip\.decompress|ast\.literal_eval|read_tsv)\("
)


def modules() -> set[str]:
    """The modules of both packages that open the content of files, by their path."""
    roots = [Path(package.__path__[0]) for package in (naturel_jax, tfds_naturel)]
    paths = [(root.parent, path) for root in roots for path in root.rglob("*.py")]
    return {str(path.relative_to(above)) for above, path in paths if _PRIMITIVES.search(path.read_text("utf-8"))}
