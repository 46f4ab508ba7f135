"""Which files a report replaces, and that it replaces none of somebody else's."""

import pytest
from etils import epath

from naturel_jax import storage
from naturel_jax.report import files, plots, writing
from naturel_jax.report.contents import Report
from naturel_jax.report.tables import MEASURED, Cell, ModelRow
from tfds_naturel.common.errors import UserError


def test_names_are_those_of_all_that_a_report_writes(tmp_path):
    metrics = ["naturel/simple", "zeroshot/dtd/top1", "mine/image_to_text@1", "cola/group", "bla/accuracy"]
    metrics += [f"{prefix}on" for prefix in plots.RELATIONS]
    row = ModelRow("CLIP", MEASURED, dict.fromkeys(metrics, Cell(0.5, (0.4, 0.6), 9)))
    history = [(step, {"naturel/simple": 0.5}) for step in (0, 9)]
    made = Report([row], {"CLIP": [history]}, losses={"CLIP": [[(1, 4.0), (2, 3.0)]]})
    writing.save(epath.Path(tmp_path), made)
    assert {path.name for path in tmp_path.iterdir()} == {*files.NAMES}


@pytest.mark.parametrize("server", ["gs"], indirect=True)
def test_a_folder_is_ours_by_its_names(server):
    """A whole report, or what lies beside one of which a part was written, of a store in one request."""
    folder = epath.Path(server.url) / "paper"

    def check():
        files.check(folder, ("mine",), "runs of this suite", "--workdir")

    check()
    for name in ("notes.txt", "report.tex", "loss.png"):
        storage.write(folder / name, "mine")
    server.requests.clear()
    with pytest.raises(UserError, match=r"paper has no runs of this suite, but report\.tex, loss\.png, which a "):
        check()
    assert len(server.requests) == 1
    storage.write(folder / "mine" / "config.json", "{}")
    check()
    storage.delete(folder / "mine" / "config.json")
    for name in files.TEXTS:
        storage.write(folder / name, "ours")
    check()
