"""Compares the scores of a reproduction with the known ones, and names likely causes where they differ."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from etils import epath

from naturel_jax import storage
from naturel_jax.evaluators import results
from naturel_jax.report import known_scores
from naturel_jax.report import report as tables_of_results
from naturel_jax.report.known_scores import AS_KNOWN, IN_INTERVAL, MISSING, OFF, OFF_OR_OTHER, OTHER, Compared
from naturel_jax.report.published import Checkpoint
from naturel_jax.reproduce.stages import Work


def compare(out: Path, known: Mapping[str, Checkpoint]) -> dict[str, list[Compared]]:
    """Checkpoint -> one ``Compared`` for each known score. Raises UserError for a file in ``out`` that is not a
    result."""
    measured: dict[str, dict[str, results.Result]] = {}
    for one in results.load(out):
        measured.setdefault(one.model, {})[one.benchmark] = one
    return {
        key: list(known_scores.compare(out, one.name, one, measured.get(one.name, {}))) for key, one in known.items()
    }


def report(work: Work, gaps: Sequence[str], tables: bool) -> bool:
    """Prints the comparison, and with ``tables`` the tables of all results before it; writes it to ``check.md``.
    Returns whether anything is off or missing."""
    results_folder = work.root / "results"
    compared = compare(results_folder, work.known)
    text = _markdown(work, compared, gaps)
    if tables and results_folder.exists():
        print(tables_of_results.write(results_folder))
    print(text, flush=True)
    storage.write(epath.Path(work.root) / "check.md", text)
    return bool(gaps) or any(
        line.verdict not in (AS_KNOWN, IN_INTERVAL) for lines in compared.values() for line in lines
    )


def _markdown(work: Work, compared: Mapping[str, Sequence[Compared]], gaps: Sequence[str]) -> str:
    rows = [(key, line) for key, lines in compared.items() for line in lines]
    count = Counter(line.verdict for _, line in rows)
    verdicts = (AS_KNOWN, IN_INTERVAL, OFF, OFF_OR_OTHER, OTHER, MISSING)
    summary = ", ".join(f"{count[verdict]} {verdict}" for verdict in verdicts)
    table = known_scores.table([line for _, line in rows], [key for key, _ in rows])
    parts = ["# Known scores", f"{table}\n{len(rows)} scores: {summary}."]
    for key, one in work.known.items():
        if bad := known_scores.off(compared[key]):
            text = known_scores.explained(
                one.name, work.path_of(one), bad, f"{work.root}/files", f"{work.root}/mistakes"
            )
            parts.append(f"## {key} is off on {', '.join(bad)}\n\n{text}")
    if gaps:
        parts.append("## Left out\n\n" + "\n".join(f"- {gap}" for gap in gaps))
    return "\n\n".join(parts) + "\n"
