"""ARO's VG-Relation: a crop, and two captions with the roles swapped (Yuksekgonul et al., arXiv 2210.01936)."""

import ast
import json
import re
from pathlib import Path

from naturel_jax.benchmarks import aro, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Metric, Source, by_value
from naturel_jax.benchmarks.files import BenchmarkError, Record, load_json
from tfds_naturel.common.files import parse_json

EXCLUDED = "aro/vgr_excluded_relations.json"
_NOTEBOOK = (
    "https://raw.githubusercontent.com/mertyg/vision-language-models-are-bows/81fdd20dc5b6f434aa5a4a971717bc80d1cedb0d/"
    "notebooks/Replicate%20ARO!%20VG-Relation%2C%20VG-Attribution.ipynb"
)


def read(folder: Path) -> Benchmark:
    """Reads ``aro/visual_genome_relation.json``, ``aro/vgr_excluded_relations.json`` and ``aro/images/``.

    The macro mean, and the micro mean beside it, leave out the relations that ARO excludes as symmetric: a JSON list
    of names. Without that list they cover all relations, which is reported in ``problems``.
    """
    path = folder / EXCLUDED
    excluded = load_json(path, list) if path.exists() else []
    if not all(isinstance(name, str) for name in excluded):
        raise BenchmarkError(f"{path}: expected a list of names")
    left_out = frozenset(excluded)

    def tags(row: Record) -> dict[str, str]:
        name = row["relation_name"]
        return {"relation": name} | ({} if name in left_out else {"counted": name, "kind": "asymmetric"})

    problems: list[str] = []
    items = aro.read(folder, "visual_genome_relation.json", {"relation_name": str}, tags, problems)
    if not path.exists():
        problems.append(
            f"{path}: not found, so symmetric relations count too, unlike in the published scores; get it with "
            "`python -m naturel_jax.benchmarks --download vg_relation`"
        )
    metrics = (
        Metric("vg_relation/macro", "right", macro="counted"),
        Metric("vg_relation/micro", "right", where=("kind", "asymmetric")),
        *by_value("vg_relation/relation", "right", "relation", items),
    )
    return Benchmark("vg_relation", items, rules.pair, metrics, 23_937, problems, true_captions=1, chance=rules.PAIR)


def symmetric_relations(notebook: bytes) -> bytes:
    """A JSON list of the relations that ARO's notebook leaves out of VG-Relation, from its line ``symmetric = [...]``.
    Raises ValueError if it has no such line.
    """
    try:
        lines = [line for cell in parse_json(notebook)["cells"] for line in cell["source"]]
        (names,) = (ast.literal_eval(m[1]) for line in lines if (m := re.match(r"symmetric *= *(\[.*\])", line)))
        return json.dumps(sorted(names)).encode()
    except (KeyError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"no line 'symmetric = [...]' in the notebook ({error}); list the names by hand") from error


SOURCE = Source(
    aro.LICENCE,
    aro.WHERE,
    "aro/visual_genome_relation.json, aro/images/, and the names of ARO's symmetric relations as a JSON list in "
    f"{EXCLUDED} (--download takes them from ARO's notebook)",
    {EXCLUDED: _NOTEBOOK},
    {EXCLUDED: symmetric_relations},
    origins=aro.ORIGINS,
)
