"""The list of benchmarks, and downloads from a server on this machine."""

import dataclasses
import http.server
import json
import threading

import benchmark_files as files
import pytest

from naturel_jax.benchmarks import __main__ as benchmarks
from naturel_jax.benchmarks import registry, valse
from tfds_naturel.download import Policy

QUICK = Policy(attempts=3, first_wait=0.01, longest_wait=0.02, stall=2)


@pytest.fixture
def server(tmp_path):
    """(address, folder that it serves, requests it had). The first request for a path with ``flaky`` fails."""
    root, asked = tmp_path / "served", []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def do_GET(self):
            asked.append(self.path)
            if "flaky" in self.path and asked.count(self.path) == 1:
                self.send_error(503)
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    root.mkdir()
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", root, asked
    running.shutdown()


def test_every_benchmark_has_a_source():
    assert set(benchmarks.SOURCES) == set(registry.BENCHMARKS)


def test_list_says_what_is_there_and_where_to_get_the_rest(tmp_path, capsys):
    files.winoground(tmp_path, items=4, image_0="gone")
    benchmarks.main(["--dir", str(tmp_path)])
    text = capsys.readouterr().out
    assert "winoground: 3 of 400 published items, 1 problems; the first: winoground record 0: image 'gone.png'" in text
    assert "sugarcrepe: " in text and "licence: MIT; pictures of COCO" in text
    assert "download: --download sugarcrepe" in text and "download: --download eqben" not in text


def test_downloads_files_and_the_pictures_they_name(tmp_path, server, monkeypatch):
    address, served, asked = server
    files.sugarcrepe(served, items=2)
    for path in (served / "coco/val2017").iterdir():
        path.rename(path.with_name("flaky-" + path.name))
    for path in (served / "sugarcrepe").iterdir():
        path.write_text(path.read_text().replace('"0000', '"flaky-0000'))
    files.write(served / "coco/val2017/flaky-000000000003.png", b"<html>busy</html>")
    (served / "coco/val2017/flaky-000000000004.png").unlink()
    local = {path: f"{address}/{path}" for path in benchmarks.SOURCES["sugarcrepe"].files}
    monkeypatch.setitem(
        benchmarks.SOURCES, "sugarcrepe", dataclasses.replace(benchmarks.SOURCES["sugarcrepe"], files=local)
    )
    monkeypatch.setattr(benchmarks, "COCO", f"{address}/coco")
    root = tmp_path / "benchmarks"
    problems = benchmarks.download("sugarcrepe", root, QUICK)
    assert len(problems) == 2 and "000000000003.png: not a readable image" in problems[0] and "404" in problems[1]
    assert sorted(path.name for path in (root / "coco/val2017").iterdir()) == [f"flaky-{n:012d}.png" for n in range(3)]
    assert (root / "coco/val2017/flaky-000000000001.png").read_bytes() == files.png(201)
    benchmark = registry.load(["sugarcrepe"], root)[0]
    assert len(benchmark.items) + len(benchmark.problems) == 14

    before = len(asked)
    benchmarks.download("sugarcrepe", root, QUICK)
    assert all("0003.png" in path or "0004.png" in path for path in asked[before:]), "only what is missing is asked for"


def test_a_page_instead_of_json_is_refused(tmp_path, server, monkeypatch):
    address, served, _ = server
    files.write(served / "dev.jsonl", b'{"a": 1}\n{"a": 2}\n')
    files.write(served / "test.jsonl", b"<html>moved</html>")
    source = dataclasses.replace(
        benchmarks.SOURCES["vsr"], files={f"vsr/{s}.jsonl": f"{address}/{s}.jsonl" for s in ("dev", "test")}
    )
    monkeypatch.setitem(benchmarks.SOURCES, "vsr", source)
    problems = benchmarks.download("vsr", tmp_path, QUICK)  # and no picture of a file that is not there
    assert len(problems) == 1 and "test.jsonl" in problems[0]
    assert [path.name for path in (tmp_path / "vsr").iterdir()] == ["dev.jsonl"]


def test_the_symmetric_relations_are_taken_from_aros_notebook(tmp_path, server, monkeypatch):
    """The notebook's cell in its form: the list stands on one line among others."""
    address, served, _ = server
    lines = ["# macro\n", "symmetric = ['near', 'next to', 'between']\n", "df = df[~df.Relation.isin(symmetric)]\n"]
    files.write(served / "aro.ipynb", {"cells": [{"source": ["import aro\n"]}, {"source": lines}]})
    files.visual_genome(tmp_path)
    (tmp_path / "aro/vgr_excluded_relations.json").unlink()
    path = "aro/vgr_excluded_relations.json"
    source = dataclasses.replace(benchmarks.SOURCES["vg_relation"], files={path: f"{address}/aro.ipynb"})
    monkeypatch.setitem(benchmarks.SOURCES, "vg_relation", source)
    assert benchmarks.download("vg_relation", tmp_path, QUICK) == []
    assert json.loads((tmp_path / path).read_text()) == ["between", "near", "next to"]
    benchmark = registry.load(["vg_relation"], tmp_path)[0]
    assert not any("symmetric" in problem for problem in benchmark.problems)


@pytest.mark.parametrize("source", [[], ["symmetric = [\n"], ["symmetric = [print()]"], ["symmetric = [1, 'a']"]])
def test_a_notebook_without_the_list_is_refused(source):
    with pytest.raises(ValueError, match="write the names down by hand"):
        benchmarks.symmetric_relations(json.dumps({"cells": [{"source": source}]}).encode())


def test_paths_of_a_hostile_file_do_not_leave_the_folder(tmp_path):
    files.sugarcrepe(tmp_path)
    rows = {"0": {"filename": "../../x.jpg", "caption": "a", "negative_caption": "b"}}
    files.write(tmp_path / "sugarcrepe/swap_obj.json", rows)
    with pytest.raises(ValueError, match="leaves its folder"):
        benchmarks.download("sugarcrepe", tmp_path, QUICK)


def test_hub_snapshots_are_laid_out_as_the_readers_expect(tmp_path, monkeypatch):
    rows = files.winoground(tmp_path / "made", items=2)
    snapshot = tmp_path / "snapshot"
    files.write(snapshot / "data/examples.jsonl", "\n".join(map(json.dumps, rows)).encode())
    files.write(snapshot / "data/images.zip", (tmp_path / "made/winoground/images.zip").read_bytes())
    monkeypatch.setattr(benchmarks.huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    source = dataclasses.replace(benchmarks.SOURCES["winoground"], files={})
    monkeypatch.setitem(benchmarks.SOURCES, "winoground", source)
    assert benchmarks.download("winoground", tmp_path / "root") == []
    assert len(registry.load(["winoground"], tmp_path / "root")[0].items) == 2


def test_what_cannot_be_downloaded_says_how_to_get_it(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmarks.main(["--dir", str(tmp_path), "--download", "eqben"])
    assert "get eqben/*.json" in capsys.readouterr().err


def test_valses_pictures_are_asked_of_coco_where_they_are_cocos(tmp_path):
    for name, folder in valse.IMAGES.items():
        image = "COCO_val2014_000000165831.jpg" if folder == valse.COCO else "v7w_1.jpg"
        files.write(tmp_path / f"valse/data/{name}.json", {"0": {"image_file": image}})
    path = "val2014/COCO_val2014_000000165831.jpg"
    assert benchmarks._valse_images(tmp_path) == {f"coco/{path}": f"{benchmarks.COCO}/{path}"}


def test_only_links_to_coco_are_followed(tmp_path):
    links = ("http://images.cocodataset.org/val2017/a.jpg", "http://images.cocodataset.org.evil.example/b.jpg")
    rows = [{"image": link[-5:], "image_link": link} for link in links]
    for split in ("dev", "test"):
        files.write(tmp_path / f"vsr/{split}.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert benchmarks._vsr_images(tmp_path) == {"vsr/images/a.jpg": links[0]}


def test_a_file_that_names_no_pictures_is_refused_by_name(tmp_path, capsys):
    """Files that a user already has are not fetched again, so they may hold anything."""
    for path in benchmarks.SOURCES["vsr"].files:
        files.write(tmp_path / path, b'{"caption": "a cat"}\n')
    with pytest.raises(SystemExit, match="2"):
        benchmarks.main(["--dir", str(tmp_path), "--download", "vsr"])
    said = capsys.readouterr().err
    assert "vsr/dev.jsonl record 0: has no field 'image'; move the file away to download it again" in said
