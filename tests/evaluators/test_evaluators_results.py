"""Results on disk."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks import benchmark, registry, rules
from naturel_jax.evaluators import fingerprints, results, scoring
from naturel_jax.storage import once
from tests.helpers import benchmark_files as files
from tests.helpers.tiny_models import tiny
from tests.helpers.worlds import ROOT
from tfds_naturel.common.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_fingerprint_changes_with_anything_that_affects_scores(tmp_path):
    files.winoground(tmp_path)
    files.sugarcrepe(tmp_path)
    model, params, processor = tiny()
    base = fingerprints.of_model(model, params, processor)
    changed = jax.tree.map(lambda x: x, params)
    changed["logit_scale"] = changed["logit_scale"] + 1
    assert base == fingerprints.of_model(model, params, processor)
    assert base != fingerprints.of_model(model, changed, processor)
    halved, recomputing = (
        dataclasses.replace(model, compute=dataclasses.replace(model.compute, **how))
        for how in ({"dtype": "bfloat16"}, {"remat": "full"})
    )
    assert base != fingerprints.of_model(halved, params, processor)
    assert base == fingerprints.of_model(recomputing, params, processor), "values do not depend on it"
    winoground, sugarcrepe = registry.read(["winoground", "sugarcrepe"], files=tmp_path)
    assert fingerprints.of_pair(base, winoground) != fingerprints.of_pair(base, sugarcrepe)
    assert fingerprints.of_pair(base, winoground) != fingerprints.of_pair("other", winoground)


def test_weights_change_the_fingerprint():
    items = (benchmark.Item("0", (), ("a", "b")), benchmark.Item("1", (), ("c", "d")))
    plain = benchmark.Benchmark("b", items, rules.pair, (benchmark.Metric("b/all", "right"),))
    weighted = dataclasses.replace(plain, items=(items[0], dataclasses.replace(items[1], weight=5)))
    assert fingerprints.of_pair("m", plain) != fingerprints.of_pair("m", weighted)


def save(out, model="CLIP") -> results.Result:
    items = (benchmark.Item("0", (), ("a", "b"), weight=3), benchmark.Item("1", (), ("c", "d")))
    bench = benchmark.Benchmark("bench", items, rules.pair, (benchmark.Metric("bench/all", "right"),))
    matrices = [np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])]
    return scoring.save(out, model, bench, "fingerprint", (items, matrices, []), {})


def test_save_and_load_round_trip(tmp_path):
    saved = save(tmp_path)
    assert results.load(tmp_path) == [saved]
    assert save(tmp_path) == saved, "saving again replaces the result"
    names = sorted(path.name for path in (tmp_path / "CLIP/bench").iterdir())
    assert names == [".lock", "examples.json", "items.parquet", "scores.json"]
    rows = results.load_items(tmp_path, "CLIP", "bench")
    assert [(row["id"], row["weight"], row["outcome/right"]) for row in rows] == [("0", 3, 1), ("1", 1, 0)]


SAVE = """
import sys
from pathlib import Path
import numpy as np
from naturel_jax.benchmarks import benchmark, rules
from naturel_jax.evaluators import scoring
from naturel_jax.storage import once

out, name = Path(sys.argv[1]), sys.argv[2]
items = tuple(benchmark.Item(f"{name}{n}", (), ("a", "b")) for n in range(20))
bench = benchmark.Benchmark("bench", items, rules.pair, (benchmark.Metric("bench/all", "right"),))
matrices = [np.array([[1.0, 0.0]])] * len(items)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    scoring.save(out, "CLIP", bench, name, (items, matrices, []), {})
"""


def test_results_of_two_processes_are_never_mixed_and_never_missing(tmp_path):
    """Each saves other rows and scores in the same folder, 40 times; all the while someone reads."""
    save(tmp_path)
    command = [sys.executable, "-c", SAVE, os.fspath(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, name], cwd=ROOT, **pipes) for name in ("one", "two")]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    seen = set()
    while any(process.poll() is None for process in processes):
        (result,) = results.load(tmp_path)
        seen.add(result.fingerprint)
    for process in processes:
        assert process.communicate()[1] == "" and process.returncode == 0
    (result,) = results.load(tmp_path)
    rows = results.load_items(tmp_path, "CLIP", "bench")
    assert result.fingerprint in ("one", "two") and len(rows) == result.items == 20
    assert {row["id"].rstrip("0123456789") for row in rows} == {result.fingerprint}
    assert {"one", "two"} & seen


def test_rows_of_another_evaluation_are_not_taken_for_the_result(tmp_path):
    """What a crash between the two files leaves."""
    save(tmp_path)
    path = tmp_path / "CLIP/bench/scores.json"
    assert results.finished(tmp_path, "CLIP", "bench", "fingerprint")
    storage.write_json(epath.Path(path), storage.read_json(epath.Path(path)) | {"fingerprint": "another", "rows": ""})
    assert results.finished(tmp_path, "CLIP", "bench", "another") is None
    with pytest.raises(UserError, match=r"items\.parquet: damaged, or its rows are not those"):
        results.load_items(tmp_path, "CLIP", "bench")
    save(tmp_path)
    assert results.finished(tmp_path, "CLIP", "bench", "fingerprint")
    (tmp_path / "CLIP/bench/items.parquet").write_bytes(b"cut short")
    assert results.finished(tmp_path, "CLIP", "bench", "fingerprint") is None


def test_a_copied_folder_is_not_taken_for_another_model(tmp_path):
    """Its row would be there twice, under the name of the model that it was copied from."""
    saved = save(tmp_path)
    shutil.copytree(tmp_path / "CLIP", tmp_path / "SigLIP")
    with pytest.raises(UserError, match=r"SigLIP/bench/scores\.json: .*'CLIP' on 'bench' belong into another folder"):
        results.load(tmp_path)
    shutil.rmtree(tmp_path / "SigLIP")
    assert results.load(tmp_path) == [saved]


def test_files_of_another_version_are_refused(tmp_path):
    save(tmp_path)
    path = epath.Path(tmp_path / "CLIP/bench/scores.json")
    fields = storage.read_json(path)
    for version in (4, 6):
        storage.write_json(path, fields | {"version": version})
        with pytest.raises(UserError, match=rf"scores\.json: schema version {version}, this .* reads 5: install"):
            results.load(tmp_path)
    for name in fields:
        storage.write_json(path, {key: value for key, value in fields.items() if key != name})
        with pytest.raises(UserError, match=rf"scores\.json: not the scores .*{name}.*; delete its folder"):
            results.load(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"scores\.json: not found; evaluate 'CLIP' on 'bench' first"):
        results.load_items(tmp_path, "CLIP", "bench")


def test_scores_of_other_types_are_an_error(tmp_path):
    save(tmp_path)
    path = tmp_path / "CLIP/bench/scores.json"
    fields = storage.unsealed(json.loads(path.read_text()))
    (score,) = fields["scores"].values()
    wrong = ({"low": 10**400}, {"value": "x"}, {"count": math.nan}, {"count": math.inf})
    changes = [{"left_out": "many"}, {"found": []}, {"found": {"name": "many"}}, {"scores": None}]
    for change in [*changes, *({"scores": {"bench/all": score | one}} for one in wrong)]:
        path.write_text(storage.sealed(fields | change))
        with pytest.raises(UserError, match=r"CLIP/bench/scores\.json: not the scores of an evaluation"):
            results.load(tmp_path)


def rewrite(folder, change) -> None:
    """Changes the rows of a result, as if they had been written so."""
    path = folder / "CLIP/bench/items.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    scores = epath.Path(path.with_name("scores.json"))
    storage.write_json(scores, storage.read_json(scores) | {"rows": once.checksum(path)})


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("id", pa.array([["a"], ["b"]])),
        ("images", pa.array([None, ["a"]], pa.list_(pa.string()))),
        ("captions", pa.array([[None], ["a"]], pa.list_(pa.string()))),
        ("cosines", pa.array(["a", "b"])),
        ("outcome/right", pa.array(["yes", "no"])),
        ("outcome/right", pa.array([math.inf, 0.0])),
        ("boxes", pa.array([2**62, 0], pa.duration("s"))),  # more than Python has
        ("captions_hash", pa.array(["a", "b"])),
        ("weight", pa.array([None, 1.0], pa.float32())),
        ("tags", pa.array(["[]", "{}"])),
        ("tags", pa.array(['{"relation": 5}', "{}"])),
        ("tags", pa.array(['{"relation": [["on"]]}', "{}"])),
    ],
)
def test_items_of_other_types_are_an_error(column, values, tmp_path):
    save(tmp_path)
    rewrite(tmp_path, lambda table: table.set_column(table.column_names.index(column), column, values))
    with pytest.raises(UserError, match=rf"items\.parquet: .*{column}"):
        results.load_items(tmp_path, "CLIP", "bench")


def test_items_without_a_column_are_an_error(tmp_path):
    """One that is not read may be missing."""
    save(tmp_path)
    rewrite(tmp_path, lambda table: table.drop_columns(["boxes", "id"]))
    message = r"items\.parquet: has no column boxes, id; expected id, tags, images, .*; evaluate 'CLIP' again"
    with pytest.raises(UserError, match=message):
        results.load_items(tmp_path, "CLIP", "bench")
    assert len(results.load_items(tmp_path, "CLIP", "bench", without=("boxes", "id"))) == 2


def test_left_out_items_are_counted_and_scored_separately(tmp_path):
    items = tuple(benchmark.Item(str(n), (), ("right", "wrong"), {"set": "ab"[n // 2]}) for n in range(4))
    metrics = (benchmark.Metric("bench/all", "right"), benchmark.Metric("bench/b", "right", where=("set", "b")))
    full = benchmark.Benchmark("bench", items, rules.pair, metrics, published=4)
    held_out = full.held_out({"2", "3", "not there"})
    assert [item.id for item in held_out.items] == ["0", "1"]
    assert held_out.whole == full and full.held_out(()) is full
    matrices = [np.array([[float(n % 2), 0.5]]) for n in range(4)]  # 1 and 3 are right
    result = scoring.save(tmp_path, "M", held_out, "f", (items, matrices, []), {})
    assert (result.items, result.left_out, result.unreadable, result.incomplete) == (2, 2, 0, True)
    assert all(dataclasses.replace(result, left_out=0, items=n).incomplete is (n != 4) for n in (3, 4, 600))
    assert result.scores.keys() == {"bench/all"} and result.scores["bench/all"]["value"] == 0.5
    assert result.with_trained_on == {"bench/all": 0.5, "bench/b": 0.5}
    assert [row["id"] for row in results.load_items(tmp_path, "M", "bench")] == ["0", "1"]
    assert results.load(tmp_path) == [result]
    others = (dataclasses.replace(held_out, gallery=True), dataclasses.replace(full, together="set"))
    every = (full, held_out, full.held_out({"2"}), full.held_out({"0"}), *others)
    assert len({fingerprints.of_pair("m", b) for b in every}) == len(every), "each has other scores or intervals"


def test_items_that_are_scored_together_are_left_out_together():
    tags = ({"set": "x"}, {"set": "x"}, {"set": "y"}, {}, {})
    items = tuple(benchmark.Item(str(n), (), ("a", "b"), own) for n, own in enumerate(tags))
    full = benchmark.Benchmark("bench", items, rules.pair, (), together="set")
    assert [item.id for item in full.held_out({"1", "3"}).items] == ["2", "4"]
