"""Zero-shot classification of any labelled folder or TFDS dataset with prompt templates (Radford et al., arXiv
2103.00020).
"""

import functools
import itertools
import mimetypes
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from naturel_jax.benchmarks.benchmark import (
    Benchmark,
    Chance,
    Entry,
    Image,
    Item,
    Metric,
    Outcomes,
    Source,
    positions,
)
from naturel_jax.benchmarks.files import BenchmarkError, check_inside, load_json, not_found
from naturel_jax.data.images.decode import SUFFIXES
from naturel_jax.data.items import prepared
from naturel_jax.data.items.index import read_file
from naturel_jax.data.items.records import BadRecord, Span
from naturel_jax.data.sources import webdataset
from tfds_naturel.common.builders import open_builder
from tfds_naturel.common.files import check_regular, is_unicode, parse_json, version_of

SOURCE = Source(
    "the dataset's own",
    "any dataset, such as https://huggingface.co/clip-benchmark",
    "zeroshot/<dataset>/: a folder for each class, a prepared TFDS folder, or a folder of clip_benchmark (wds_*)",
)
TEMPLATES = ("a photo of a {}.",)
# File with prompts -> what stands for the class in them: ours, and clip_benchmark's.
TEMPLATE_FILES = {"templates.txt": "{}", "zeroshot_classification_templates.txt": "{c}"}
# clip_benchmark's prompts by data set, beside the folders of the data sets; one that it does not know has ImageNet's
# (github.com/LAION-AI/CLIP_benchmark, clip_benchmark/datasets/builder.py, 0322448).
PROMPT_TABLE, OTHERS = "en_zeroshot_classification_templates.json", "imagenet1k"
# big_vision's, of every data set: CLIP's 80 of ImageNet and the bare name (github.com/google-research/big_vision,
# evaluators/proj/image_text/prompt_engineering_constants.py, "clip_paper", 0127fb6).
SIGLIP_TEMPLATES = tuple(parse_json(Path(__file__).with_name("siglip_prompts.json").read_text("utf-8")))
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_IMAGE_FIELDS = ("webp", "png", "jpg", "jpeg")
_MAX_PROMPTS = 16_000_000  # characters of all prompts; ImageNet's with 80 templates have seven million
_PER_PROMPT = 32  # characters that each counts for besides its own: a string has a header
# ImageNet's labels, alone or before a name, and numbers before names, as in CUB: meaningless to a text tower.
_NUMBERED = re.compile(r"n\d{8}([_-].*)?|\d+\.\D.*")


def read(folder: Path, siglip: bool = False) -> Benchmark:
    """Reads every folder of ``zeroshot/``: a folder per class, a prepared TFDS dataset with ``image`` and ``label``, or
    shards (``_webdataset``). In the first two, each line of ``classnames.txt`` has a folder's name or a label, a space
    or tab, and the name of that class in prompts; without that file, the names are the same. A file of
    ``TEMPLATE_FILES`` has one prompt per line, or ``PROMPT_TABLE`` those of a data set; the embeddings of all prompts
    are averaged. With ``siglip``, the prompts are ``siglip_prompts``, and the benchmark is called ``zeroshot_siglip``.
    """
    benchmark = "zeroshot_siglip" if siglip else "zeroshot"
    root = folder / "zeroshot"
    if not root.is_dir():
        raise not_found(root)
    items: list[Item] = []
    problems: list[str] = []
    for dataset in _folders(root):
        names, labelled = labelled_images(dataset, problems)
        captions = siglip_prompts(dataset, names) if siglip else prompts(dataset, names, templates_of(dataset))
        for image, label in labelled:
            tags = {"dataset": dataset.name, "label": str(label), f"class of {dataset.name}": str(label)}
            items.append(Item(f"{dataset.name}/{len(items)}", (image,), captions, tags))
    metrics: list[Metric] = []
    for name in positions(items, ["dataset"])["dataset"]:
        metrics += [Metric(f"{benchmark}/{name}/{top}", top, where=("dataset", name)) for top in ("top1", "top5")]
        metrics.append(Metric(f"{benchmark}/{name}/mean_per_class", "top1", macro=f"class of {name}"))
    return Benchmark(benchmark, items, outcomes, metrics, problems=problems, chance=CHANCE)


SIGLIP = Entry(SOURCE, functools.partial(read, siglip=True))


def outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """The true class is among the first one or five; a class that ties with a wrong one ranks behind it."""
    labels = [int(str(item.tags["label"])) for item in items]
    ahead = [np.count_nonzero(matrix[0] >= matrix[0, label]) - 1 for matrix, label in zip(cosines, labels, strict=True)]
    ranks = {f"top{k}": (np.array(ahead) < k).astype(float) for k in (1, 5)}
    tied = (np.count_nonzero(matrix[0] == matrix[0, label]) > 1 for matrix, label in zip(cosines, labels, strict=True))
    return ranks | {"tie": np.fromiter(tied, float, len(labels))}


CHANCE: Chance = {"top1": lambda item: 1 / len(item.captions), "top5": lambda item: min(1, 5 / len(item.captions))}


def labelled_images(dataset: Path, problems: list[str]) -> tuple[list[str], Iterator[tuple[Image, int]]]:
    """The names of the classes of ``dataset``, and each of its images with the index of its class; classes of a folder
    without images, and records without an image of a class, are reported in ``problems``."""
    if (dataset / "test" / "nshards.txt").exists():
        return _webdataset(dataset, problems)
    labels, images = (_tfds if (dataset / "dataset_info.json").exists() else _folder)(dataset, problems)
    return _class_names(dataset, labels), images


def _class_names(dataset: Path, labels: Sequence[str]) -> list[str]:
    path = dataset / "classnames.txt"
    if not path.exists():
        if odd := next(filter(_NUMBERED.fullmatch, labels), None):
            raise BenchmarkError(
                f"{path} is missing: prompts need names instead of labels such as {odd:.80}; expected a line for each "
                f"class, such as '{odd:.80} NAME'"
            )
        return [label.replace("_", " ") for label in labels]
    rows = [line.split("\t" if "\t" in line else None, maxsplit=1) for line in _lines(path)]
    named = [(row[0].strip(), row[1].strip()) for row in rows if len(row) == 2]
    if twice := [label for label, count in Counter(label for label, _ in named).items() if count > 1]:
        raise BenchmarkError(f"{path}: several lines of {twice[0]!r:.80}; keep the right one")
    names = dict(named)
    if missing := [label for label in labels if not names.get(label)]:
        raise BenchmarkError(f"{path}: no name for {', '.join(missing[:5])}; expected a line for each class")
    return [names[label] for label in labels]


def _lines(path: Path) -> list[str]:
    """The non-empty lines of a file."""
    return list(filter(None, _numbered_lines(path)))


def _numbered_lines(path: Path) -> list[str]:
    """All lines of a file, up to the last that is not empty."""
    check_regular(path)
    try:
        text = path.read_text("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{path}: not UTF-8 ({error.reason})") from error
    lines = text.splitlines()
    if len(lines) > text.count("\n") + 1:  # the labels after it would have the names of others
        odd = next(line[-1] for line in text.splitlines(keepends=True) if line[-1] != "\n")
        raise BenchmarkError(f"{path}: has the character {odd!a}, which ends a line for some programs; remove it")
    return [line.strip() for line in lines]


def prompts(dataset: Path, names: Sequence[str], templates: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The prompts of each class of ``dataset``."""
    of_templates = sum(map(len, templates)) + _PER_PROMPT * len(templates)
    marks = sum(template.count("{}") for template in templates)
    if (size := len(names) * of_templates + marks * sum(map(len, names))) > _MAX_PROMPTS:
        raise BenchmarkError(
            f"{dataset}: {len(templates):,} templates for {len(names):,} classes give prompts of {size:,} characters "
            f"({_PER_PROMPT} more for each); "
            f"the limit is {_MAX_PROMPTS:,}"
        )
    return tuple(tuple(template.replace("{}", name) for template in templates) for name in names)


def siglip_prompts(dataset: Path, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The prompts of each class as big_vision's evaluator makes them: of the first name where several are separated by
    commas, in lower case and without punctuation (discriminative_classifier.py and ``canonicalize_text`` of
    prompt_engineering.py)."""
    made = prompts(dataset, [name.split(",")[0] for name in names], SIGLIP_TEMPLATES)
    return tuple(tuple(map(_canonical, of_class)) for of_class in made)


def _canonical(text: str) -> str:
    return " ".join(text.replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


def templates_of(dataset: Path) -> tuple[str, ...]:
    """The templates of the prompts of ``dataset``, with ``{}`` for the class."""
    for name, mark in TEMPLATE_FILES.items():
        if (path := dataset / name).exists():
            return _checked(_lines(path), mark, f"{path}: expected one prompt per line")
    if (path := dataset.parent / PROMPT_TABLE).exists():
        table = load_json(path, dict)
        return _checked(table.get(dataset.name, table.get(OTHERS)), "{c}", f"{path}: expected a list of prompts")
    return TEMPLATES


def _checked(prompts: object, mark: str, expected: str) -> tuple[str, ...]:
    """The prompts with ``{}`` in place of ``mark``. Raises BenchmarkError, which begins with ``expected``."""
    found = [line for line in prompts if isinstance(line, str)] if isinstance(prompts, list) else []
    is_whole = isinstance(prompts, list) and len(found) == len(prompts) and is_unicode(found)
    if not found or not is_whole or any(mark not in p or set("{}") & set(p.replace(mark, "")) for p in found):
        raise BenchmarkError(f"{expected}, each with {mark} for the class's name")
    return tuple(line.replace(mark, "{}") for line in found)


def _folders(folder: Path) -> list[Path]:
    """The folders in ``folder``, without hidden ones, such as Jupyter's, and what archives of macOS have."""
    return [path for path in _visible(folder) if path.is_dir() and path.name != "__MACOSX"]


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _folder(dataset: Path, problems: list[str]) -> tuple[list[str], Iterator[tuple[Image, int]]]:
    classes = _folders(dataset)
    if not classes:
        raise BenchmarkError(f"{dataset}: contains no folders; expected one per class")
    if odd := next((path.name for path in classes if not path.name.isprintable()), None):
        raise BenchmarkError(f"{dataset}: a class is named {odd!a:.80}, which is not valid UTF-8; rename the folder")

    def images() -> Iterator[tuple[Image, int]]:
        for label, folder in enumerate(classes):
            found: list[Path] = []
            others: list[str] = []
            for path in _visible(folder):
                if path.suffix.lower() in SUFFIXES:
                    found.append(path)
                elif path.is_dir() or _looks_like(path):
                    others.append(path.name)
            if others:
                problems.append(
                    f"{dataset.name}/{folder.name}: {len(others):,} not read, such as {others[0]}; expected images "
                    f"({', '.join(sorted(SUFFIXES))}) in the folder of the class itself"
                )
            if not found:
                problems.append(
                    f"{dataset.name}/{folder.name}: no images ({', '.join(sorted(SUFFIXES))}), but a class in the "
                    "prompts; add some, or remove the folder"
                )
            for path in found:
                yield _file(check_inside(path, dataset)), label

    return [path.name for path in classes], images()


def _looks_like(path: Path) -> bool:
    """Whether a file has the name of an image."""
    return str(mimetypes.guess_type(path.name)[0]).startswith("image/")


def _file(path: Path) -> Image:
    return Image(str(path), functools.partial(read_file, str(path)), version=version_of(path) if path.is_file() else "")


def _webdataset(dataset: Path, problems: list[str]) -> tuple[list[str], Iterator[tuple[Image, int]]]:
    """The layout of clip_benchmark: ``test/0.tar`` and so on, as many as ``test/nshards.txt`` says, with an image and
    its label (``cls``) in each record; ``classnames.txt`` has a line for each class, in the order of the labels
    (github.com/LAION-AI/CLIP_benchmark, clip_benchmark/datasets/builder.py, build_wds_dataset, 0322448).
    """
    kind, counted = dataset / "dataset_type.txt", " ".join(_lines(dataset / "test" / "nshards.txt"))
    if kind.exists() and _lines(kind) != ["classification"]:
        raise BenchmarkError(f"{kind}: is {' '.join(_lines(kind))!r:.80}; expected classification")
    if not re.fullmatch(r"0*[1-9]\d{0,3}", counted):
        raise BenchmarkError(f"{dataset / 'test/nshards.txt'}: is {counted!r:.80}; expected the number of shards")
    shards = [dataset / "test" / f"{n}.tar" for n in range(int(counted))]
    if missing := next((path for path in shards if not path.is_file()), None):
        raise BenchmarkError(f"{missing} is missing; nshards.txt beside it says that there are {counted!r:.20} shards")
    names = _numbered_lines(dataset / "classnames.txt")
    if "" in names:
        line = names.index("") + 1
        raise BenchmarkError(f"{dataset / 'classnames.txt'} line {line}: empty; expected the name of class {line - 1}")
    labels = {str(n): n for n in range(len(names))}

    def images(shard: Path) -> Iterator[tuple[Image, int]]:
        version = version_of(shard)
        for n, row in enumerate(webdataset.rows(shard)):
            fields = {} if isinstance(row, BadRecord) else row
            image = next((fields[name] for name in _IMAGE_FIELDS if name in fields), None)
            cell = fields.get("cls")
            label = cell.decode(errors="replace").strip() if isinstance(cell, bytes) else ""
            if isinstance(image, Span) and label in labels:
                key = f"{shard}!{image.offset}"
                yield Image(key, functools.partial(read_file, str(shard), *image), version=version), labels[label]
            else:
                problems.append(
                    f"{dataset.name}/test/{shard.name} record {n}: has the fields {', '.join(fields)!a:.80} and the "
                    f"label {label!a:.20}; expected {' or '.join(_IMAGE_FIELDS)}, and a cls below {len(names)}"
                )

    return names, itertools.chain.from_iterable(map(images, shards))


def _tfds(dataset: Path, problems: list[str]) -> tuple[list[str], Iterator[tuple[Image, int]]]:
    import tensorflow_datasets as tfds  # slow to import

    info = open_builder(dataset).info
    splits = [name for name in ("test", "validation") if name in info.splits]
    features = dict(info.features.items()) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    classes = features.get("label")
    if not splits or "image" not in features or not isinstance(classes, tfds.features.ClassLabel):
        raise BenchmarkError(
            f"{dataset}: expected features 'image' and 'label' (a ClassLabel) and a split 'test' or 'validation'"
        )
    last, unlabelled = len(classes.names) - 1, ""
    for split in splits:
        records = prepared.open_split(dataset, split).records
        labels = [int(records.value(n, "label")) for n in range(len(records))]
        wrong = [label for label in labels if not 0 <= label <= last]
        if len(wrong) < len(labels):
            break
        unlabelled += f"split {split!r} has no labels: all {len(wrong):,} are {wrong[0] if wrong else 'absent'}; "
    else:
        raise BenchmarkError(f"{dataset}: {unlabelled}expected 0 to {last}; prepare a split 'validation' with labels")
    if unlabelled:
        problems.append(f"{dataset.name}: {unlabelled}split {split!r} is scored instead")
    if wrong:
        of = f"{len(wrong):,} of {len(labels):,} labels are not from 0 to {last}, such as {wrong[0]}"
        problems.append(f"{dataset.name} split {split!r}: {of}; their images are left out")

    def images() -> Iterator[tuple[Image, int]]:
        for n, label in enumerate(labels):
            if 0 <= label <= last:
                key, read = f"{dataset}:{split}:{n}", functools.partial(prepared.read_image, records, n)
                yield Image(key, read, version=records.version), label

    return list(classes.names), images()
