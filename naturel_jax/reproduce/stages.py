"""The stages of a reproduction, as commands that a user could type one by one."""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from naturel_jax.report.published import Checkpoint
from tfds_naturel.common.errors import UserError

VERSION = "4.1.0"  # of the datasets; not imported from tfds_naturel.naturel, which imports TensorFlow Datasets
MODEL = "en_core_web_sm"  # spaCy's, which tags COCO's captions
MAX_THREADS = 16
WEIGHTS = "{weights}"  # placeholder in a source for the folder of weights that no program may download


@dataclasses.dataclass(frozen=True)
class Budget:
    """``photos`` of Open Images and of COCO's training split; None: all. ``steps`` of each recipe; None: 5 epochs."""

    photos: int | None = None
    steps: int | None = None

    def __str__(self) -> str:
        if self.photos is None and self.steps is None:
            return "full"
        return ",".join(f"{name}={value}" for name, value in dataclasses.asdict(self).items() if value is not None)


BUDGETS = {"full": Budget(), "small": Budget(photos=2_000, steps=100)}
BATCH = 256  # of the recipes


def parse_budget(text: str) -> Budget:
    """``full``, ``small``, or limits such as ``photos=2000,steps=100``. Raises UserError."""
    if text in BUDGETS:
        return BUDGETS[text]
    limits = dict(re.findall(r"(photos|steps)=([1-9]\d*)(?:,|$)", text))
    if not limits or ",".join(f"{name}={value}" for name, value in limits.items()) != text:
        raise UserError(f"--budget {text!r}: expected full, small, or limits such as photos=2000,steps=100")
    return Budget(**{name: int(value) for name, value in limits.items()})


@dataclasses.dataclass(frozen=True)
class Work:
    """A reproduction: workdir, budget, and known checkpoints by ``REPOSITORY@REVISION``.

    Below ``root``: ``open_images``, ``training`` (COCO's training split), ``files`` (of the benchmarks), ``weights``
    (provided by hand), ``data``, ``runs`` and ``results``.
    """

    root: Path
    budget: Budget
    known: Mapping[str, Checkpoint]

    def __post_init__(self) -> None:
        """Raises UserError if two rows of the tables would have the same name."""
        names = [*RECIPES, *(one.name for one in self.known.values())]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(
                f"--known: two rows of the tables would be called {twice[0]!r}; give a checkpoint another name"
            )

    @property
    def naturel(self) -> str:
        """The name of NatuRel's dataset: ``full``, or ``part`` if photos are limited."""
        return "full" if self.budget.photos is None else "part"

    def dataset(self, name: str) -> Path:
        """Folder of a prepared dataset; ``full`` is NatuRel, whatever its name."""
        return self.root / "data" / "naturel" / (self.naturel if name == "full" else name) / VERSION

    def limit(self, flag: str) -> tuple[str, ...]:
        """``flag`` with the limit on photos; empty without a limit."""
        return () if self.budget.photos is None else (flag, f"{self.budget.photos}")

    def path_of(self, checkpoint: Checkpoint) -> str:
        """The checkpoint's source, with the folder for weights filled in."""
        return checkpoint.source.replace(WEIGHTS, f"{self.root}/weights")

    def file_of(self, checkpoint: Checkpoint) -> Path:
        """The file of a checkpoint that must be provided by hand."""
        return Path(self.path_of(checkpoint).rpartition(":")[2])


@dataclasses.dataclass(frozen=True)
class Task:
    """One command: ``python -m module arguments``.

    ``needs``: path -> what it is, for files without which it is not run. ``gap``: what is missing from the tables if it
    is not run or fails; without a ``gap``, a failure ends the reproduction.
    """

    module: str
    arguments: tuple[str, ...]
    needs: Mapping[Path, str] = dataclasses.field(default_factory=dict)
    gap: str = ""


DOWNLOADS = {  # benchmark -> what is missing without it
    "sugarcrepe": "SugarCrepe (table 2)",
    "winoground": "Winoground (table 1), and NegCLIP-AP, which trains on half of it",
    "vg_relation": "ARO's list of symmetric relations, without which VG-Relation counts them too",
    "coco_retrieval": "COCO retrieval (what fine-tuning forgets)",
}
# Benchmarks, besides NatuRel's own, that are evaluated if their file exists; the last two are not in the tables, but
# have known scores.
EVALUATED = {
    "winoground": "winoground/data/examples.jsonl",
    "vg_relation": "aro/visual_genome_relation.json",
    "sugarcrepe": "sugarcrepe/add_att.json",
    "coco_retrieval": "coco/coco_karpathy_test.json",
    "vg_attribution": "aro/visual_genome_attribution.json",
    "whatsup": "whatsup/controlled_images_dataset.json",
}
OF_NATUREL = ("naturel", "naturel_unseen", "naturel_contrast")

# Row of the tables -> (config, datasets that it trains on). The other two rows, CLIP and SigLIP, are known checkpoints.
RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "NegCLIP": ("negclip", ("coco_order",)),
    "NegCLIP-SP": ("negclip_sp", ("full",)),
    "NegCLIP-AP": ("negclip_ap", ("full", "coco_order", "winoground_part")),
    "SigLIP-TP": ("siglip_tp", ("full",)),
}


def _annotations(work: Work) -> list[Task]:
    return [Task("tfds_naturel.open_images.fetch", ("--out", f"{work.root}/open_images", "--limit", "0"))]


def _photos(work: Work) -> list[Task]:
    return [Task("tfds_naturel.open_images.fetch", ("--out", f"{work.root}/open_images", *work.limit("--limit")))]


def _coco(work: Work) -> list[Task]:
    flags, gap = ("--out", f"{work.root}/training", *work.limit("--images")), "the rows NegCLIP and NegCLIP-AP"
    tagger = [] if importlib.util.find_spec(MODEL) else [Task("spacy", ("download", MODEL), gap=gap)]
    return [*tagger, Task("naturel_jax.reproduce.coco_train", flags, gap=gap)]


def _benchmarks(work: Work) -> list[Task]:
    flags = ("--dir", f"{work.root}/files", "--download")
    return [Task("naturel_jax.benchmarks", (*flags, name), gap=gap) for name, gap in DOWNLOADS.items()]


def _build(work: Work) -> list[Task]:
    def task(name: str, folder: Path, *flags: str, needs: Mapping[Path, str], gap: str) -> Task:
        arguments = (name, "--manual_dir", f"{folder}", "--data_dir", f"{work.root}/data", *flags)
        return Task("tfds_naturel.build", arguments, needs, gap)

    some = () if work.budget.photos is None else ("--name", work.naturel, "--max_missing", "1")
    training, files = work.root / "training", work.root / "files"
    coco = {training / "coco/coco_karpathy_train.json": "stage coco"}
    winoground = {files / EVALUATED["winoground"]: "stage benchmarks"}
    return [
        task("full", work.root / "open_images", *some, needs={}, gap=""),
        task("coco_order", training, needs=coco, gap="the rows NegCLIP and NegCLIP-AP"),
        task("winoground_part", files, needs=winoground, gap="the row NegCLIP-AP"),
    ]


def _train(work: Work) -> list[Task]:
    tasks = []
    for row, (config, datasets) in RECIPES.items():
        flags = [f"--config={config}", f"--workdir={work.root}/runs/{config}", f"--config.data.dir={work.root}/data"]
        flags.append(f"--config.data.threads={min(MAX_THREADS, os.cpu_count() or 1)}")
        if work.naturel != "full":
            flags.append(f"--config.eval.naturel=naturel/{work.naturel}")
            if datasets[0] == "full":
                flags.append(f"--config.data.mixture.main.dataset=naturel/{work.naturel}")
        if work.budget.steps is not None:
            flags += [f"--config.duration={work.budget.steps} steps", "--config.optim.warmup=5%"]
        if work.budget.photos is not None:  # a batch must not have an image twice, and some sources are small
            flags.append(f"--config.data.batch_size={min(BATCH, 1 << (work.budget.photos // 8 | 1).bit_length() - 1)}")
        needs = {work.dataset(name): "stage build" for name in datasets}
        tasks.append(Task("naturel_jax.main", tuple(flags), needs, f"the row {row}"))
    return tasks


def _evaluation(work: Work, name: str, source: str, needs: Mapping[Path, str]) -> Task:
    """The evaluation of one model on NatuRel and on the downloaded benchmarks, or on all if there are none yet."""
    files = work.root / "files"
    found = [benchmark for benchmark, file in EVALUATED.items() if (files / file).exists() or not files.exists()]
    flags = ("--benchmarks", *OF_NATUREL, *found, "--benchmarks_dir", f"{files}")
    flags += ("--naturel", f"{work.dataset('full')}", "--out", f"{work.root}/results")
    return Task("naturel_jax.evaluate", ("--models", f"{name}={source}", *flags), needs, f"the row {name}")


def _known(work: Work) -> list[Task]:
    """Evaluations of the known checkpoints; those whose files were not provided by hand are not run."""
    by_hand = {one.name: {work.file_of(one): f"by hand: {one.by_hand}"} for one in work.known.values() if one.by_hand}
    known = work.known.values()
    return [_evaluation(work, one.name, work.path_of(one), by_hand.get(one.name, {})) for one in known]


def _evaluate(work: Work) -> list[Task]:
    runs = {row: work.root / "runs" / config for row, (config, _) in RECIPES.items()}
    return [_evaluation(work, row, f"run:{run}", {run / "scores.json": "stage train"}) for row, run in runs.items()]


class Stage(NamedTuple):
    """``tasks`` is called when the stage begins, since the tasks depend on which files exist. ``folder``: the part of
    the workdir that it writes to."""

    does: str
    tasks: Callable[[Work], list[Task]]
    folder: str


STAGES = {
    "annotations": Stage("downloads Open Images' tables", _annotations, "open_images"),
    "photos": Stage("downloads the photos that have relations", _photos, "open_images"),
    "coco": Stage("downloads COCO's training split", _coco, "training"),
    "benchmarks": Stage("downloads the benchmarks' files", _benchmarks, "files"),
    "build": Stage("builds NatuRel and the other training sources", _build, "data"),
    "known": Stage("evaluates known checkpoints and compares their scores", _known, "results"),
    "train": Stage("trains the recipes", _train, "runs"),
    "evaluate": Stage("evaluates what was trained", _evaluate, "results"),
    "report": Stage("prints the tables, and what is off", lambda work: [], "results"),
}
