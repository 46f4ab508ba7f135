"""The list of benchmarks, and downloads from a local server."""

import dataclasses
import json
import re
import shutil

import pytest

from naturel_jax.benchmarks import __main__ as command
from naturel_jax.benchmarks import coco, download, registry, valse, vg_relation, vsr, winoground
from naturel_jax.benchmarks.download import download as fetch
from tests.helpers import benchmark_files as files
from tests.helpers.loopback import serve
from tfds_naturel.common.download import Policy
from tfds_naturel.common.errors import Stopped, UserError


@pytest.fixture
def server(tmp_path, monkeypatch):
    """(address, served folder, paths requested so far)."""
    quick = Policy(attempts=3, first_wait=0.01, longest_wait=0.02, stall=2)
    monkeypatch.setattr(download, "Policy", lambda: quick)
    with serve(tmp_path / "served") as (address, requested):
        yield address, tmp_path / "served", requested


def test_listing_shows_what_is_present_and_where_to_get_the_rest(tmp_path, capsys):
    files.winoground(tmp_path, items=4, image_0="gone")
    command.main(["--dir", str(tmp_path)])
    text = capsys.readouterr().out
    assert "winoground: 3 of 400 published items, 1 problems; the first: winoground record 0: image 'gone.png'" in text
    assert re.search(rf"^sugarcrepe: missing: {tmp_path}/sugarcrepe/\w+\.json: not found$", text, re.MULTILINE)
    assert "from https://github.com/RAIVNLab/sugar-crepe; MIT; COCO images" in text
    assert "naturel_positions: needs --naturel, which is not set\n    it is a prepared TFDS folder such as" in text
    assert "; --download sugarcrepe fetches it" in text and "--download eqben" not in text
    assert "; --download docci_retrieval fetches docci/docci_descriptions.jsonlines\n" in text
    assert "; --download vl_checklist fetches 56 annotation files, no images\n" in text
    assert "python -m naturel_jax.benchmarks" not in text, "that has just been run"
    listed = re.findall(r"^([\w, ]+): .*\n(?:    it is .*\n)?    reader: (.*)$", text, re.MULTILINE)
    readers = {name: reader for names, reader in listed for name in names.split(", ")}
    assert readers.keys() == {name for name in registry.BENCHMARKS if not registry.reads_dataset(name)}
    assert re.fullmatch(r"verified \(sha256 [0-9a-f]{12}, 210 items, \d{4}-\d\d-\d\d\)", readers["cola"])
    assert readers["winoground"] == readers["hard_positives_swap"] == "format only"


def test_downloads_files_and_the_images_they_reference(tmp_path, server, monkeypatch):
    address, served, requested = server
    files.sugarcrepe(served, items=2)
    for path in (served / "coco/val2017").iterdir():
        path.rename(path.with_name("flaky-" + path.name))
    for path in (served / "sugarcrepe").iterdir():
        path.write_text(path.read_text().replace('"0000', '"flaky-0000'))
    files.write(served / "coco/val2017/flaky-000000000003.png", b"<html>busy</html>")
    (served / "coco/val2017/flaky-000000000004.png").unlink()
    official = registry.BENCHMARKS["sugarcrepe"].SOURCE
    source = dataclasses.replace(official, files={path: f"{address}/{path}" for path in official.files})
    monkeypatch.setattr(coco, "SERVER", f"{address}/coco")
    root = tmp_path / "benchmarks"
    problems = fetch("sugarcrepe", source, root)
    assert len(problems) == 2 and "000000000003.png: not a readable" in problems[0] and "404" in problems[1]
    assert sorted(path.name for path in (root / "coco/val2017").iterdir()) == [f"flaky-{n:012d}.png" for n in range(3)]
    assert (root / "coco/val2017/flaky-000000000001.png").read_bytes() == files.png(201)
    benchmark = registry.read(["sugarcrepe"], files=root)[0]
    assert len(benchmark.items) + len(benchmark.problems) == 14

    before = len(requested)
    fetch("sugarcrepe", source, root)
    assert all("0003.png" in path or "0004.png" in path for path in requested[before:]), (
        "existing files are requested again"
    )


def test_command_says_that_files_are_left_for_another_run(tmp_path, server, monkeypatch, capsys):
    address, served, _ = server
    files.write(served / "host/dev.jsonl", b'{"a": 1}\n')
    source = dataclasses.replace(
        vsr.SOURCE, files={f"vsr/{split}.jsonl": f"https://host/{split}.jsonl" for split in vsr.SPLITS}
    )
    monkeypatch.setattr(vsr, "SOURCE", source)
    monkeypatch.setenv("NATUREL_MIRROR", address)
    with pytest.raises(Stopped, match="1 files could not be downloaded; run the same command again"):
        command.main(["--dir", str(tmp_path), "--download", "vsr"])
    assert "could not download https://host/test.jsonl: " in capsys.readouterr().out
    assert (tmp_path / "vsr/dev.jsonl").exists()


def test_a_download_does_not_follow_a_link(tmp_path, server):
    address, served, _ = server
    files.write(served / "dev.jsonl", b'{"a": 1}\n')
    (tmp_path / "root/vsr").mkdir(parents=True)
    (tmp_path / "file").write_text("somebody's")
    (tmp_path / "root/vsr/dev.jsonl.part").symlink_to(tmp_path / "file")
    source = dataclasses.replace(vsr.SOURCE, files={"vsr/dev.jsonl": f"{address}/dev.jsonl"}, images=None)
    assert fetch("vsr", source, tmp_path / "root") == []
    assert (tmp_path / "file").read_text() == "somebody's"
    assert (tmp_path / "root/vsr/dev.jsonl").read_bytes() == b'{"a": 1}\n'


@pytest.mark.parametrize("content", [b"<html>moved</html>", b"[" * 100_000, b"\xff\xfe"])
def test_text_that_is_not_json_is_rejected(tmp_path, server, content):
    address, served, _ = server
    files.write(served / "dev.jsonl", b'{"a": 1}\n{"a": 2}\n')
    files.write(served / "test.jsonl", content)
    local = {f"vsr/{split}.jsonl": f"{address}/{split}.jsonl" for split in vsr.SPLITS}
    problems = fetch("vsr", dataclasses.replace(vsr.SOURCE, files=local), tmp_path)
    assert len(problems) == 1 and "test.jsonl" in problems[0]
    assert [path.name for path in (tmp_path / "vsr").iterdir()] == ["dev.jsonl"], "no images are downloaded either"


def test_symmetric_relations_are_read_from_aros_notebook(tmp_path, server):
    """As in ARO's notebook, the list is on one line of a cell."""
    address, served, _ = server
    lines = ["# macro\n", "symmetric = ['near', 'next to', 'between']\n", "df = df[~df.Relation.isin(symmetric)]\n"]
    files.write(served / "aro.ipynb", {"cells": [{"source": ["import aro\n"]}, {"source": lines}]})
    files.visual_genome(tmp_path)
    (tmp_path / vg_relation.EXCLUDED).unlink()
    source = dataclasses.replace(vg_relation.SOURCE, files={vg_relation.EXCLUDED: f"{address}/aro.ipynb"})
    assert fetch("vg_relation", source, tmp_path) == []
    assert json.loads((tmp_path / vg_relation.EXCLUDED).read_text()) == ["between", "near", "next to"]
    benchmark = registry.read(["vg_relation"], files=tmp_path)[0]
    assert not any("symmetric" in problem for problem in benchmark.problems)


@pytest.mark.parametrize("source", [[], ["symmetric = [\n"], ["symmetric = [print()]"], ["symmetric = [1, 'a']"]])
def test_notebook_without_the_list_is_rejected(source):
    with pytest.raises(ValueError, match="list the names by hand"):
        vg_relation.symmetric_relations(json.dumps({"cells": [{"source": source}]}).encode())


def test_bodies_have_a_limit(tmp_path, server, monkeypatch):
    address, served, _ = server
    monkeypatch.setattr(download, "MAX_TEXT_BYTES", 1000)
    files.write(served / "dev.jsonl", b'{"a": 1}\n' * 1000)
    local = dataclasses.replace(vsr.SOURCE, files={"vsr/dev.jsonl": f"{address}/dev.jsonl"})
    assert fetch("vsr", local, tmp_path) == [f"{address}/dev.jsonl: {address}/dev.jsonl: 9,000 bytes, more than 1,000"]


def test_server_without_any_image_is_not_asked_for_all(tmp_path, server):
    address, _, requested = server
    source = dataclasses.replace(vsr.SOURCE, files={f"vsr/{n}.json": f"{address}/{n}.json" for n in range(300)})
    problems = fetch("vsr", source, tmp_path)
    assert len(problems) == 300 and len(requested) < 80
    assert sum("not tried, since" in problem for problem in problems) == 300 - len(requested)


def test_malicious_paths_cannot_escape_the_folder(tmp_path):
    files.sugarcrepe(tmp_path)
    rows = {"0": {"filename": "../../x.jpg", "caption": "a", "negative_caption": "b"}}
    files.write(tmp_path / "sugarcrepe/swap_obj.json", rows)
    with pytest.raises(UserError, match="leaves its folder"):
        fetch("sugarcrepe", registry.BENCHMARKS["sugarcrepe"].SOURCE, tmp_path)


def test_hub_files_are_linked_again_when_the_cache_has_moved(tmp_path, monkeypatch):
    rows = files.winoground(tmp_path / "made", items=2)
    content = {"data/examples.jsonl": "\n".join(map(json.dumps, rows)).encode()}
    content["data/images.zip"] = (tmp_path / "made/winoground/images.zip").read_bytes()
    for cache in ("old", "new"):
        for name, data in content.items():
            files.write(tmp_path / cache / name, data)
        monkeypatch.setattr(download.hub, "snapshot", lambda *_, cache=cache, **__: tmp_path / cache)
        assert fetch("winoground", dataclasses.replace(winoground.SOURCE, files={}), tmp_path / "root") == []
        if cache == "old":
            shutil.rmtree(tmp_path / "old")
    assert len(registry.read(["winoground"], files=tmp_path / "root")[0].items) == 2


def test_error_for_a_manual_download_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"get eqben/\*\.json"):
        command.main(["--dir", str(tmp_path), "--download", "eqben"])


def test_valse_downloads_only_coco_images_from_coco(tmp_path):
    for name, folder in valse.IMAGES.items():
        image = "COCO_val2014_000000165831.jpg" if folder == valse.COCO else "v7w_1.jpg"
        files.write(tmp_path / f"valse/data/{name}.json", {"0": {"image_file": image}})
    path = "val2014/COCO_val2014_000000165831.jpg"
    assert valse.SOURCE.images(tmp_path) == {f"coco/{path}": f"{coco.SERVER}/{path}"}


def test_only_coco_links_are_followed(tmp_path):
    links = ("http://images.cocodataset.org/val2017/a.jpg", "http://images.cocodataset.org.evil.example/b.jpg")
    rows = [{"image": link[-5:], "image_link": link} for link in links]
    for split in vsr.SPLITS:
        files.write(tmp_path / f"vsr/{split}.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert vsr.SOURCE.images(tmp_path) == {"vsr/images/a.jpg": links[0]}


def test_error_names_a_file_without_image_names(tmp_path):
    """Files that the user already has are not downloaded again, so they may contain anything."""
    for path in vsr.SOURCE.files:
        files.write(tmp_path / path, b'{"caption": "a cat"}\n')
    problem = r"vsr/dev\.jsonl record 0: has no field 'image'; move the file away to download it again"
    with pytest.raises(UserError, match=problem):
        command.main(["--dir", str(tmp_path), "--download", "vsr"])
