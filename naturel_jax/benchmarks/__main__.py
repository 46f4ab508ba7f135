"""Lists the benchmarks: what is there, what is missing, where to get it under which licence; downloads what it may.

    python -m naturel_jax.benchmarks --dir ~/benchmarks
    python -m naturel_jax.benchmarks --dir ~/benchmarks --download sugarcrepe coco_order

Offline, put the files where the list says; nothing else is needed.
"""

import argparse
import ast
import asyncio
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import huggingface_hub
from tqdm.asyncio import tqdm

from naturel_jax.benchmarks import registry, sugarcrepe, sugarcrepe_pp, valse
from naturel_jax.benchmarks.files import BenchmarkError, load_json, load_json_lines, records, safe_name
from naturel_jax.data.processor import open_image
from tfds_naturel.download import MissingKey, Policy, Transient, get_bytes, retried, session

CONNECTIONS = 16
COCO = "http://images.cocodataset.org"
_SUGARCREPE = "https://raw.githubusercontent.com/RAIVNLab/sugar-crepe/main/data"
_KARPATHY = "https://storage.googleapis.com/sfr-vision-language-research/datasets"
_VSR = "https://raw.githubusercontent.com/cambridgeltl/visual-spatial-reasoning/master/data/splits/random"
_ARO_NOTEBOOK = (
    "https://raw.githubusercontent.com/mertyg/vision-language-models-are-bows/81fdd20dc5b6f434aa5a4a971717bc80d1cedb0d/"
    "notebooks/Replicate%20ARO!%20VG-Relation%2C%20VG-Attribution.ipynb"
)
_VALSE = "https://raw.githubusercontent.com/Heidelberg-NLP/VALSE/main/data"
_WHY_HARD = "https://raw.githubusercontent.com/ajd12342/why-winoground-hard/main/new_tag_assignments.json"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a benchmark comes from.

    ``needs``: what a user puts into the folder. ``files``: path in the folder -> address of what may be downloaded.
    ``extract``: path -> what to take from its download, where the file is not stored as it comes. ``images``: from the
    folder, path -> address of the pictures that its files name. ``hub``: (dataset of the hub, pattern of its files,
    folder).
    """

    licence: str
    where: str
    needs: str
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    extract: dict[str, Callable[[bytes], bytes]] = dataclasses.field(default_factory=dict)
    images: Callable[[Path], dict[str, str]] | None = None
    hub: tuple[str, str, str] | None = None


def _rows(path: Path, rows: dict | list, *fields: str) -> list[dict]:
    """The records ``rows`` of ``path``. Raises BenchmarkError that names the first of which a field is no string."""
    keyed = rows.items() if isinstance(rows, dict) else ((str(n), row) for n, row in enumerate(rows))
    problems: list[str] = []
    found = [row for _, row in records(str(path), keyed, dict.fromkeys(fields, str), problems)]
    if problems:
        raise BenchmarkError(f"{problems[0]}; move the file away to download it again")
    return found


def _coco_val2017(rows: Iterable[dict]) -> dict[str, str]:
    names = sorted({safe_name(row["filename"]) for row in rows})
    return {f"coco/val2017/{name}": f"{COCO}/val2017/{name}" for name in names}


def _sugarcrepe_images(root: Path) -> dict[str, str]:
    folder = root / "sugarcrepe"
    paths = [folder / f"{subset}.json" for subset in sugarcrepe.SUBSETS]
    return _coco_val2017(row for path in paths for row in _rows(path, load_json(path, dict), "filename"))


def _sugarcrepe_pp_images(root: Path) -> dict[str, str]:
    folder = root / "sugarcrepe_pp"
    paths = [folder / f"{subset}.json" for subset in sugarcrepe_pp.SUBSETS]
    return _coco_val2017(row for path in paths for row in _rows(path, load_json(path, list), "filename"))


def _karpathy_images(root: Path) -> dict[str, str]:
    path = root / "coco/coco_karpathy_test.json"
    names = sorted({safe_name(row["image"]) for row in _rows(path, load_json(path, list), "image")})
    return {f"coco/{name}": f"{COCO}/{name}" for name in names}


def _vsr_images(root: Path) -> dict[str, str]:
    """VSR's rows link to COCO's server; other addresses are not followed."""
    paths = [root / "vsr" / f"{split}.jsonl" for split in ("dev", "test")]
    rows = (row for path in paths for row in _rows(path, load_json_lines(path), "image", "image_link"))
    links = {safe_name(row["image"]): row["image_link"] for row in rows}
    return {f"vsr/images/{name}": link for name, link in links.items() if link.startswith(f"{COCO}/")}


def _valse_images(root: Path) -> dict[str, str]:
    """Those of COCO's server; Visual7W, SWiG and VisDial have pages of their own."""
    files = {
        name: root / "valse/data" / f"{name}.json" for name, folder in valse.IMAGES.items() if folder == valse.COCO
    }
    paths = (
        valse.image_path(name, safe_name(row["image_file"]))
        for name, file in files.items()
        for row in _rows(file, load_json(file, dict), "image_file")
    )
    return {path: f"{COCO}/{path.removeprefix('coco/')}" for path in sorted(set(paths))}


def symmetric_relations(notebook: bytes) -> bytes:
    """A JSON list of the relations that ARO's notebook leaves out of VG-Relation: those of its line ``symmetric =
    [...]``. Raises ValueError when it has no such line.
    """
    try:
        lines = [line for cell in json.loads(notebook)["cells"] for line in cell["source"]]
        (names,) = (ast.literal_eval(m[1]) for line in lines if (m := re.match(r"symmetric *= *(\[.*\])", line)))
        return json.dumps(sorted(names)).encode()
    except (KeyError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"no line 'symmetric = [...]' in it ({error}); write the names down by hand") from error


_KARPATHY_COCO = Source(
    "COCO: annotations CC BY 4.0, pictures under their Flickr licences",
    "https://cocodataset.org",
    "coco/coco_karpathy_test.json, coco/val2014/",
    {"coco/coco_karpathy_test.json": f"{_KARPATHY}/coco_karpathy_test.json"},
    images=_karpathy_images,
)
_KARPATHY_FLICKR30K = Source(
    "Flickr30k: research only, on request",
    "https://shannon.cs.illinois.edu/DenotationGraph",
    "flickr30k/flickr30k_test.json, flickr30k/flickr30k-images/",
    {"flickr30k/flickr30k_test.json": f"{_KARPATHY}/flickr30k_test.json"},
)
_ARO = "annotations MIT; pictures of Visual Genome, CC BY 4.0"
_ARO_WHERE = "https://github.com/mertyg/vision-language-models-are-bows (its links to Google Drive)"

SOURCES: dict[str, Source] = {
    "winoground": Source(
        "Winoground: research only, gated; Why-is-Winoground-hard tags MIT",
        "https://huggingface.co/datasets/facebook/winoground (accept its terms, then `hf auth login`)",
        "winoground/data/examples.jsonl and winoground/images.zip, or winoground/*.parquet",
        {"winoground/new_tag_assignments.json": _WHY_HARD},
        hub=("facebook/winoground", "data/*", "winoground"),
    ),
    "vg_relation": Source(
        _ARO,
        _ARO_WHERE,
        "aro/visual_genome_relation.json, aro/images/, and the names of ARO's symmetric relations as a JSON list in "
        "aro/vgr_excluded_relations.json (--download takes them from ARO's notebook)",
        {"aro/vgr_excluded_relations.json": _ARO_NOTEBOOK},
        {"aro/vgr_excluded_relations.json": symmetric_relations},
    ),
    "vg_attribution": Source(_ARO, _ARO_WHERE, "aro/visual_genome_attribution.json, aro/images/"),
    "sugarcrepe": Source(
        "MIT; pictures of COCO under their Flickr licences",
        "https://github.com/RAIVNLab/sugar-crepe",
        "sugarcrepe/{replace,swap,add}_*.json (seven), coco/val2017/",
        {f"sugarcrepe/{subset}.json": f"{_SUGARCREPE}/{subset}.json" for subset in sugarcrepe.SUBSETS},
        images=_sugarcrepe_images,
    ),
    "coco_order": _KARPATHY_COCO,
    "flickr30k_order": _KARPATHY_FLICKR30K,
    "whatsup": Source(
        "MIT; pictures of COCO and Visual Genome under theirs",
        "https://github.com/amitakamath/whatsup_vlms (its links to Google Drive)",
        "whatsup/*.json (six), whatsup/{controlled_images,controlled_clevr,vg_images}/, coco/val2017/",
    ),
    "sugarcrepe_pp": Source(
        "CC BY 4.0; pictures of COCO under their Flickr licences",
        "https://huggingface.co/datasets/Aman-J/SugarCrepe_pp",
        "sugarcrepe_pp/{swap_obj,swap_att,replace_obj,replace_att,replace_rel}.json, coco/val2017/",
        images=_sugarcrepe_pp_images,
        hub=("Aman-J/SugarCrepe_pp", "data/*.json", "sugarcrepe_pp"),
    ),
    "bivlc": Source(
        "MIT; pictures of COCO under their Flickr licences",
        "https://huggingface.co/datasets/imirandam/BiVLC",
        "bivlc/*.parquet",
        hub=("imirandam/BiVLC", "data/*.parquet", "bivlc"),
    ),
    "colorswap": Source(
        "MIT",
        "https://huggingface.co/datasets/stanfordnlp/colorswap",
        "colorswap/*.parquet (of its test split)",
        hub=("stanfordnlp/colorswap", "data/test*.parquet", "colorswap"),
    ),
    "eqben": Source(
        "Apache-2.0; pictures under the licences of their datasets",
        "https://github.com/Wangt-CN/EqBen (its links to Google Drive)",
        "eqben/*.json (the original annotation, or that of the 10% subset), eqben/images/<source>/",
    ),
    "valse": Source(
        "MIT; pictures under the licences of their datasets",
        "https://github.com/Heidelberg-NLP/VALSE; pictures from Visual7W, SWiG, VisDial and COCO",
        "valse/data/*.json (eleven), valse/images/{visual7w,swig,visdial}/, coco/{val2017,val2014,train2014}/",
        {f"valse/data/{name}.json": f"{_VALSE}/{name}.json" for name in valse.IMAGES},
        images=_valse_images,
    ),
    "vsr": Source(
        "Apache-2.0; pictures of COCO under their Flickr licences",
        "https://github.com/cambridgeltl/visual-spatial-reasoning",
        "vsr/dev.jsonl, vsr/test.jsonl, vsr/images/",
        {f"vsr/{split}.jsonl": f"{_VSR}/{split}.jsonl" for split in ("dev", "test")},
        images=_vsr_images,
    ),
    "coco_retrieval": _KARPATHY_COCO,
    "flickr30k_retrieval": _KARPATHY_FLICKR30K,
    "zeroshot": Source("that of the dataset", "any", "zeroshot/<dataset>/<class>/ or a prepared TFDS folder"),
}


def describe(name: str, root: Path) -> str:
    """Lines on one benchmark: what is there, and what is not."""
    source = SOURCES[name]
    try:
        benchmark = registry.load([name], root)[0]
        of = f" of {benchmark.published:,} published" if benchmark.published else ""
        state = f"{len(benchmark.items):,}{of} items"
        if benchmark.problems:
            state += f", {len(benchmark.problems):,} problems; the first: {benchmark.problems[0]}"
        return f"{name}: {state}"
    except (FileNotFoundError, BenchmarkError) as error:
        can = "\n    download: --download " + name if source.files or source.hub else ""
        return (
            f"{name}: {error}\n    needs: {source.needs}\n    from: {source.where}\n    licence: {source.licence}{can}"
        )


def download(name: str, root: Path, policy: Policy | None = None) -> list[str]:
    """Downloads what may be downloaded of ``name`` into ``root`` and is not there yet; returns what could not be
    had.

    A file appears under its name only when it is whole and is what it should be (JSON, or a picture that decodes).
    Raises ValueError for a benchmark of which nothing may be downloaded.
    """
    source = SOURCES[name]
    if not (source.files or source.hub):
        raise ValueError(f"{name} cannot be downloaded by a program: get {source.needs} from {source.where}")
    print(f"{name} from {source.where}, licence: {source.licence}", flush=True)
    if source.hub:
        repository, pattern, folder = source.hub
        local = huggingface_hub.snapshot_download(repository, repo_type="dataset", allow_patterns=[pattern])
        _link(Path(local), root / folder)
    policy = policy or Policy()
    missing = asyncio.run(_fetch_all(source.files, root, lambda path: source.extract.get(path, _json), policy))
    if source.images and not missing:
        missing = asyncio.run(_fetch_all(source.images(root), root, lambda _: _picture, policy))
    return missing


def _link(snapshot: Path, folder: Path) -> None:
    """Puts the files of a hub snapshot where the reader looks: Parquet and JSON side by side, other files as they
    are.
    """
    for file in sorted(path for path in snapshot.rglob("*") if path.is_file()):
        flat = file.suffix in (".parquet", ".json")
        target = folder / (file.name if flat else file.relative_to(snapshot))
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(file.resolve())


def _json(data: bytes) -> bytes:
    """``data``. Raises ValueError unless it is JSON or one JSON value per line."""
    text = data.decode()
    try:
        json.loads(text)
    except ValueError:
        for line in text.splitlines():
            json.loads(line)
    return data


def _picture(data: bytes) -> bytes:
    """``data``. Raises ValueError unless it is a picture that decodes."""
    open_image(data)
    return data


async def _fetch_all(
    files: dict[str, str], root: Path, extract: Callable[[str], Callable[[bytes], bytes]], policy: Policy
) -> list[str]:
    """Downloads what is not there; ``extract(path)`` takes the file's content from what arrives, or raises."""
    wanted = {path: url for path, url in files.items() if not (root / path).exists()}
    problems: list[str] = []
    async with session(policy, CONNECTIONS) as client:
        turns = asyncio.Semaphore(CONNECTIONS)

        async def fetch(path: str, url: str) -> None:
            async with turns:
                try:
                    data = extract(path)(await retried(lambda: get_bytes(client, url), policy))
                except (MissingKey, Transient, OSError, ValueError) as error:
                    problems.append(f"{url}: {error}")
                    return
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + ".part")
            part.write_bytes(data)
            part.replace(target)

        await tqdm.gather(*(fetch(path, url) for path, url in wanted.items()), unit="file", disable=not wanted)
    return sorted(problems)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("benchmarks_data"), help="the folder of the official files")
    parser.add_argument("--download", nargs="+", default=[], choices=sorted(SOURCES), metavar="NAME")
    options = parser.parse_args(argv)
    for name in options.download:
        try:
            for problem in download(name, options.dir):
                print(f"could not download {problem}", flush=True)
        except (ValueError, OSError, huggingface_hub.errors.HfHubHTTPError) as error:
            parser.exit(2, f"benchmarks: {error}\n")
    for name in options.download or SOURCES:
        print(describe(name, options.dir), flush=True)


if __name__ == "__main__":
    main()
