"""The files of a report in its folder, and the refusal to replace somebody else's."""

from collections.abc import Collection, Sequence

from etils import epath

from naturel_jax import storage
from tfds_naturel.common.errors import UserError

TEXTS = ("report.md", "report.tex", "report.html", "scores.csv")  # every report has them
_PLOTS = (
    *("accuracy", "forgetting", "loss"),
    *("columns_groups", "columns_naturel", "columns_pairs", "columns_retrieval", "columns_zeroshot"),
    *("by_relation_naturel_complex", "by_relation_vg_relation", "by_relation_vsr"),
)
NAMES = (*TEXTS, *(f"{name}.png" for name in _PLOTS))


def check(folder: epath.Path, marks: Collection[str], what: str, flag: str, names: Sequence[str] = NAMES) -> None:
    """Raises UserError for a folder, given by ``flag``, that has some of the files ``names``, which a report would
    replace, but neither all texts of an earlier report nor one of ``marks``: names of what lies beside our reports, in
    words ``what``. Lists the folder once."""
    found = storage.names(folder)
    theirs = [name for name in names if name in found]
    if theirs and not {*TEXTS}.issubset(found) and not {*marks}.intersection(found):
        raise not_ours(folder, what, theirs, "a report", flag)


def not_ours(folder: epath.Path, what: str, theirs: Sequence[str], by: str, flag: str) -> UserError:
    """The error of a folder without ``what`` that is ours, in which ``by`` would replace ``theirs``."""
    return UserError(
        f"{folder} has no {what}, but {', '.join(theirs)}, which {by} would replace: use another {flag}, or move them "
        "away"
    )
