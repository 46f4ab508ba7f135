"""The model card: README.md of an exported folder, with the metadata that the Hugging Face hub reads."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath
from huggingface_hub import EvalResult, ModelCardData

from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import headlines
from naturel_jax.checkpoints import checkpoint, finished, recorded
from naturel_jax.data.text.processor import Processor
from naturel_jax.models.families import family_of
from naturel_jax.models.presets import PRESETS
from naturel_jax.models.transformer import TransformerConfig
from naturel_jax.models.two_tower import TwoTowerConfig
from naturel_jax.storage.object_stores import in_store
from naturel_jax.weights import runs, snippets, sources
from tfds_naturel.common import escape, pages
from tfds_naturel.common.errors import UserError

FILE = "README.md"
_TASK = "zero-shot-image-classification"
_LIBRARY = {
    "hf": "transformers",
    "openclip": "open_clip",
    "big_vision": "big_vision",
    "run": "naturel_jax",
    "peft": "peft",
}  # hub names
# Licences of published weights, by the start of their name on the hub: https://github.com/openai/CLIP/blob/main/LICENSE
# for OpenAI's, the model cards for the others.
_LICENSES = {
    "openai/clip-vit-": "mit",
    "laion/CLIP-ViT-": "mit",
    "google/siglip-": "apache-2.0",
    "google/siglip2-": "apache-2.0",
    "timm/ViT-": "apache-2.0",
}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")
_MAX_CHAIN = 10  # runs, each started from the one before
_MAX_README_BYTES = 1 << 20  # bytes; a larger README.md is not read
_YAML_BLOCK = re.compile(r"\s*---[ \t]*\n(.*?\n)---[ \t]*(?:\n|$)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class About:
    """Contents of a card that the model itself does not tell.

    ``base``: the model on the hub that it comes from, ``license``: an identifier of the hub; both empty if unknown.
    ``datasets``: names on the hub. ``step`` and ``recipe``: of the run that trained it; ``extended``: (step, duration)
    for each time that it became longer there, after the learning rates of that duration. ``scores``: metric -> value.
    ``sections``: further sections, Markdown by title.
    """

    name: str
    source: str
    base: str = ""
    license: str = ""
    datasets: Sequence[str] = ()
    step: int = 0
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extended: Sequence[tuple[int, str]] = ()
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    sections: Mapping[str, str] = dataclasses.field(default_factory=dict)


def about(source: str) -> About:
    """The ``About`` of the model at ``source`` (see ``weights.load``), without loading it. Raises UserError."""
    if source.startswith("run:"):
        return _about_run(source.removeprefix("run:"))
    kind, _, rest = source.partition(":")
    if kind in ("hf", "open_clip"):
        base = rest.partition("@")[0]
        return About(base.partition("/")[2] or base, source, base, license_of(base))
    if in_store(named := rest if kind in PRESETS else source):
        path = sources.local(named)
    else:
        path = Path(rest if rest and not os.path.exists(source) else source)
    folder = path if path.is_dir() else path.parent
    card = _front_matter(folder)
    name = path.resolve().name if path.is_dir() else path.stem
    return About(name, source, card["base_model"], card["license"] or license_of(card["base_model"]))


def _about_run(named: str) -> About:
    folder, step = runs.locate(named)
    workdir, meta = os.fspath(folder), runs.read_meta(folder, step)[1]
    recipe = meta["config"] if isinstance(meta.get("config"), Mapping) else {}
    card = _front_matter(Path(workdir))
    base, share = _base(workdir) or card["base_model"], runs.share(named)
    return About(
        name=str(recipe.get("name") or os.path.basename(os.path.abspath(workdir))),
        source=f"run:{named}",
        base=base,
        license=license_of(base) or card["license"],
        datasets=_datasets(recipe),
        step=step,
        recipe=recipe,
        extended=runs.extended(folder, step),
        scores=_scores(folder, step) if share is None else {},
        sections={} if share is None else {"Interpolation": f"{1 - share:g} of the base, {share:g} of the run."},
    )


def _base(workdir: str) -> str:
    """The hub model at the start of the chain of runs that led to ``workdir``, or ''."""
    for _ in range(_MAX_CHAIN):
        try:
            kind, _, rest = runs.base(workdir).partition(":")
        except UserError:  # the run that it started from is elsewhere
            return ""
        if kind in ("hf", "open_clip"):
            return rest.partition("@")[0]
        if kind != "run":
            return ""
        workdir = rest
    return ""


def license_of(base: str) -> str:
    """The licence of a published model, as the hub names it; '' if it is not known here."""
    return next((license for prefix, license in _LICENSES.items() if base.startswith(prefix)), "")


def _front_matter(folder: Path) -> dict[str, str]:
    """``license`` and ``base_model`` from the metadata of a README.md; '' for one that is missing or unusable. Its YAML
    is not parsed, which takes 10 s and 300 MB for a megabyte: what is wanted are single lines."""
    path, block = folder / FILE, None
    if path.is_file() and path.stat().st_size < _MAX_README_BYTES:
        block = _YAML_BLOCK.match(path.read_text("utf-8-sig", errors="replace"))
    found = {}
    for name, form in {"license": _LICENSE_ID, "base_model": _HUB_NAME}.items():
        line = rf"^{name}:[ \t]+(['\"]?)({form.pattern})\1[ \t]*(?:#.*)?$"
        value = re.search(line, block[1], re.MULTILINE) if block else None
        found[name] = value[2] if value else ""
    return found


def _datasets(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """The training datasets that are on the hub."""
    names = [str(part.get("dataset", "")) for part in _mixture(recipe).values()]
    ids = [name.removeprefix("hf:").partition("@")[0] for name in names if name.startswith("hf:")]
    return tuple(dict.fromkeys(name for name in ids if _HUB_NAME.fullmatch(name)))


def _mixture(recipe: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    data = recipe.get("data")
    mixture = data.get("mixture") if isinstance(data, Mapping) else None
    parts = mixture.items() if isinstance(mixture, Mapping) else ()
    return {str(name): part for name, part in parts if isinstance(part, Mapping)}


def _scores(workdir: epath.Path, step: int) -> dict[str, float]:
    """The scores of a finished run; of an earlier checkpoint, or of a run that is not finished, those recorded then."""
    record = finished.read(workdir)
    if record is None or step < max(checkpoint.saved_steps(workdir)):
        return dict(recorded.by_step(workdir).get(step, {}))
    return {name: score for name, score in record.finished.scores.items() if math.isfinite(score)}


def render(
    about: About, config: TwoTowerConfig, processor: Processor, *, form: str, dtype: str, repository: str = ""
) -> str:
    """The text of README.md for an export in ``form``. ``repository``: its name on the hub, if it is known.

    Everything from the source (names, recipes, scores) is escaped.
    """
    family = family_of(config)
    derived = f", fine-tuned from {escape.markdown(about.base)}" if about.base and about.recipe else ""
    text = pages.fill(
        Path(__file__).with_name("model_card.md"),
        metadata=_metadata(about, family.name, form).to_yaml(),
        name=escape.markdown(about.name),
        model_name=family.hf_prefix.replace("Siglip", "SigLIP"),
        derived=derived,
        use=snippets.use(form, config, processor, repository),
        context=str(config.text.context),
        size=_image_size(processor),
        training=_training(about),
        evaluation=_evaluation(about),
        model=_model(config, processor, dtype),
        license=_license(about),
    )
    return text + "".join(f"\n## {title}\n\n{section}\n" for title, section in about.sections.items())


def _metadata(about: About, family: str, form: str) -> ModelCardData:
    name = escape.line(about.name)
    results = [
        _result(metric, value)
        for metric, value in _headlines(about.scores).items()
        if not _is_drawn(about.recipe, metric)
    ]
    return ModelCardData(
        license=about.license or None,
        base_model=about.base or None,
        datasets=list(about.datasets) or None,
        library_name=_LIBRARY[form],
        pipeline_tag=_TASK,
        tags=["naturel_jax", family, "compositionality", "vision-language"],
        model_name=name if results else None,
        eval_results=results or None,
    )


def _headlines(scores: Mapping[str, float]) -> dict[str, float]:
    return {escape.line(metric): scores[metric] for metric in sorted(headlines(scores))}


def _is_drawn(recipe: Mapping[str, Any], metric: str) -> bool:
    """Whether a run's score is on a drawn world."""
    options = recipe.get("eval")
    if not isinstance(options, Mapping):
        return False
    return registry.is_drawn(metric.split("/")[0], str(options.get("naturel")), options.get("benchmarks_dir") or "")


def _result(metric: str, value: float) -> EvalResult:
    benchmark, _, what = metric.partition("/")
    known = registry.BENCHMARKS.get(benchmark)
    hub = known.SOURCE.hub if known else None
    return EvalResult(
        task_type=_TASK,
        task_name="image-text matching",
        dataset_type=hub.dataset if hub else benchmark,
        dataset_name=benchmark,
        metric_type="accuracy",
        metric_name=what,
        metric_value=round(value, 4),
    )


def _training(about: About) -> str:
    if not about.recipe:
        return f"Converted from {escape.code(_without_folders(about.source))}; see there for how it was trained."
    recipe = _published(about.recipe)
    objective, optim = (recipe.get(key) for key in ("objective", "optim"))
    loss = objective.get("name") if isinstance(objective, Mapping) else None
    lines = [
        f"- started from: {_origin(about.recipe)}",
        f"- steps: {about.step:,} (duration {escape.code(str(recipe.get('duration', 'unknown')))})",
        *(
            f"- became longer at step {step:,}, after the learning rates of a run of {escape.code(duration)}"
            for step, duration in about.extended
        ),
        f"- objective: {escape.code(str(loss or 'unknown'))}",
        f"- images in a batch: {escape.code(str(recipe['data'].get('batch_size', 'unknown')))}",
    ]
    for name, part in _mixture(recipe).items():
        dataset, rule = (escape.code(str(part.get(key, "unknown"))) for key in ("dataset", "recipe"))
        lines.append(f"- data {escape.code(name)}: {dataset}, captions sampled by {rule}")
    if isinstance(optim, Mapping):
        fields = (f"{key} {optim[key]}" for key in ("lr", "warmup", "weight_decay") if key in optim)
        lines.append(f"- optimizer: {escape.code(', '.join([str(optim.get('name', 'unknown')), *fields]))}")
    return "\n".join([*lines, "", f"```json\n{json.dumps(recipe, indent=2, default=str)}\n```"])


def _origin(recipe: Mapping[str, Any]) -> str:
    """What training started from; of a base that was trained for it, also what that started from."""
    init, bases = recipe.get("init"), recipe.get("bases")
    if not init:
        return f"random parameters, {escape.code(str(recipe.get('preset') or 'unknown'))}"
    name, base = escape.code(_without_folders(str(init))), None
    if str(init).startswith("base:") and isinstance(bases, Mapping):
        base = bases.get(str(init).removeprefix("base:"))
    return f"{name}, which was trained from {_origin(base)}" if isinstance(base, Mapping) else name


_RECIPE = ("name", "init", "preset", "objective", "optim", "duration", "seed")
_DATA = ("batch_size", "crop_scale")


def _published(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run's config that say how it was trained, without the folders of the machine that trained it."""
    data = found if isinstance(found := recipe.get("data"), Mapping) else {}
    fields = {key: recipe[key] for key in _RECIPE if recipe.get(key) not in (None, "")}
    fields["data"] = {key: data[key] for key in _DATA if key in data} | {"mixture": _mixture(recipe)}
    if isinstance(compute := recipe.get("compute"), Mapping) and "dtype" in compute:
        fields["compute"] = {"dtype": compute["dtype"]}
    if isinstance(adapter := recipe.get("adapter"), Mapping) and adapter.get("rank"):
        fields["adapter"] = adapter
    return json.loads(json.dumps(fields, default=str), object_hook=_strings_without_folders)


def _strings_without_folders(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_folders(value) if isinstance(value, str) else value for key, value in fields.items()}


def _without_folders(source: str) -> str:
    """``run:x`` for ``run:/home/me/x``."""
    return re.sub(r"(^|:)[/~][^:]*/(?=[^/])", r"\1", source)


def _evaluation(about: About) -> str:
    if not about.scores:
        return "Not evaluated. `naturel-evaluate` computes the scores of this folder."
    shown = _headlines(about.scores)
    rows = [f"| {escape.markdown(metric)} | {value:.4f} |" for metric, value in shown.items()]
    note = "Scores of the run, from 0 to 1, on items that it was not trained on."
    if drawn := dict.fromkeys(metric.split("/")[0] for metric in shown if _is_drawn(about.recipe, metric)):
        names = ", ".join(escape.code(name) for name in drawn)
        note += (
            f"\n\n**Not the published benchmarks:** {names} are drawn scenes with captions, in the files' formats, so "
            "these scores do not compare with published ones, and the metadata for the hub leaves them out."
        )
    return "\n".join([note, "", "| metric | score |", "| :--- | ---: |", *rows])


def _model(config: TwoTowerConfig, processor: Processor, dtype: str) -> str:
    image, text = config.image, config.text
    resize = {
        "short": "the short side resized, then a centre crop",
        "square": "both sides resized",
        "naflex": "resized with their aspect ratio",
    }[processor.resize]
    return "\n".join(
        [
            f"- image tower: {_image_size(processor)}, patches of {image.patch}, {_tower(image.transformer)}",
            f"- text tower: {text.context} tokens of {text.vocab:,}, {_tower(text.transformer)}",
            f"- embeddings of {config.embed_dim}; weights in {dtype}",
            f"- images: {resize} ({processor.interpolation}), mean {processor.mean}, std {processor.std}",
        ]
    )


def _image_size(processor: Processor) -> str:
    return f"at most {processor.max_patches} patches" if processor.resize == "naflex" else f"{processor.size} pixels"


def _tower(config: TransformerConfig) -> str:
    sizes = f"{config.depth} blocks of width {config.width}, {config.heads} heads, MLP {config.mlp_dim}"
    return f"{sizes}, {config.activation}"


def _license(about: About) -> str:
    if about.license:
        whose = f", the license of {escape.markdown(about.base)}" if about.base else ""
        return f"{about.license}{whose}. Training data and benchmarks have licenses of their own."
    return "Not known: depends on the base model and the training data. Add it before publishing."
