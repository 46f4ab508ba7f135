"""``naturel-try``: its server from outside, what it refuses, what it saves, and its page in a browser."""

import asyncio
import io
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import scipy.special
from PIL import Image
from starlette.testclient import TestClient

import naturel_jax
from naturel_jax import playground as command
from naturel_jax.benchmarks import registry
from naturel_jax.report.playground import server
from naturel_jax.report.playground.playground import MOST_CAPTIONS, Playground
from tests.helpers import benchmark_files as files
from tests.helpers.browser import Page
from tests.helpers.tiny_models import tiny
from tests.helpers.worlds import ROOT, data_dir
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.photos import MAX_BYTES

HOST = "127.0.0.1:8765"
HOSTILE = "</script><script>document.title='hacked'</script>\u2028<img src=x onerror=\"document.title='hacked'\">"


class Angles:
    """A model of photos at 0 and of captions at as many tenths of a radian as they have characters."""

    params: ClassVar = {"logit_scale": np.log(2.0), "logit_bias": -1.0}

    def encode_image(self, images):
        return np.float32([[1, 0]] * len(images))

    def encode_text(self, texts):
        angles = [len(text) / 10 for text in texts]
        return np.float32([np.cos(angles), np.sin(angles)]).T


@pytest.fixture
def client(tmp_path) -> Iterator[TestClient]:
    tried = Playground({"A": Angles()}, tmp_path / "my.jsonl")
    with TestClient(server.make_app(tried, {"models": [HOSTILE]}, {HOST}), base_url=f"http://{HOST}") as opened:
        yield opened


def upload(client: TestClient, data: bytes = files.png(0)) -> str:
    return client.post("/photos", content=data).json()["photo"]


def test_scores_are_their_closed_form(client):
    captions = ["a", "abc", "ab"]
    (found,) = client.post("/scores", json={"photo": upload(client), "captions": captions}).json()["scores"]
    cosines = np.cos([0.1, 0.3, 0.2])
    np.testing.assert_allclose(found["cosine"], cosines, atol=1e-6)
    np.testing.assert_allclose(found["sigmoid"], 1 / (1 + np.exp(1 - 2 * cosines)), atol=1e-6)
    np.testing.assert_allclose(found["softmax"], np.exp(2 * cosines) / np.exp(2 * cosines).sum(), atol=1e-6)


def test_a_page_that_closes_in_an_upload_leaves_no_traceback(client):
    """As a browser does that is sent elsewhere while it uploads."""
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/photos", "query_string": b"", "scheme": "http"}
    asyncio.run(client.app(scope | {"headers": [(b"host", HOST.encode())]}, receive, send))
    assert sent[0]["status"] == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8765"},
        {"Host": "127.0.0.1:80"},
        {"Origin": "http://evil.example"},
        {"Origin": f"https://{HOST}"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_requests_from_elsewhere_are_refused_by_name(client, headers, tmp_path):
    ((name, value),) = headers.items()
    for answer in (client.get("/", headers=headers), client.post("/items", headers=headers, json={})):
        assert answer.status_code == 403 and f"{name} is '{value}'" in answer.json()["error"]
    assert not list(tmp_path.iterdir())
    assert client.post("/scores", headers={"Origin": f"http://{HOST}"}, json={}).status_code == 400, "its own page"


def test_answers_may_load_nothing_and_be_framed_nowhere(client):
    for answer in (client.get("/"), client.get("/nothing"), client.get("/", headers={"Host": "evil"})):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_photos_beyond_the_limits_are_refused(client):
    assert client.post("/photos", content=bytes(MAX_BYTES + 1)).status_code == 413
    large = io.BytesIO()
    Image.new("1", (3000, 3000)).save(large, "png")
    for data, reason in ((b"<svg/>", "not a readable image"), (large.getvalue(), "the limit for so many bytes is")):
        answer = client.post("/photos", content=data)
        assert answer.status_code == 400 and reason in answer.json()["error"]
    shown = client.get(f"/photos/{upload(client)}")
    assert shown.headers["Content-Type"] == "image/png" and shown.content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("photo", "captions"),
    [
        (None, ["a"]),
        (["a"], ["a"]),
        ("../my.jsonl", ["a"]),
        ("its own", None),
        ("its own", "a"),
        ("its own", []),
        ("its own", [" "]),
        ("its own", ["a", 1]),
        ("its own", ["\ud800"]),
        ("its own", ["a" * 1001]),
        ("its own", ["a"] * (MOST_CAPTIONS + 1)),
    ],
    ids=lambda value: str(value)[:20].encode("ascii", "replace").decode(),
)
def test_wrong_fields_are_refused_in_one_line(client, photo, captions):
    fields = {"photo": upload(client) if photo == "its own" else photo, "captions": captions}
    answer = client.post("/scores", content=json.dumps(fields))
    assert answer.status_code == 400 and "\n" not in answer.json()["error"]
    assert ("captions is" if photo == "its own" else "is not here") in answer.json()["error"]


def test_saved_items_are_those_of_a_benchmark(client, tmp_path):
    """Appended to what is there, once each, with captions as they were typed."""
    files.write(tmp_path / "own.png", files.png(3))
    before = json.dumps({"image": "own.png", "caption": "a", "negatives": "b"})
    (tmp_path / "my.jsonl").write_text(before)  # without a line break at its end
    item = {"photo": upload(client), "true": [HOSTILE, "ä"], "false": ["b"]}
    assert [client.post("/items", json=item).json() for _ in range(2)] == [{"items": 2}] * 2
    assert client.post("/items", json=item | {"false": []}).status_code == 400
    assert (tmp_path / "my.jsonl").read_text().startswith(before + "\n")
    (benchmark,) = registry.read([f"pairs:{tmp_path / 'my.jsonl'}"])
    assert not benchmark.problems and [item.captions for item in benchmark.items] == [("a", "b"), (HOSTILE, "ä", "b")]
    assert benchmark.items[1].images[0].read() == files.png(0)


def test_item_that_cannot_be_written_is_reported(client, tmp_path):
    (tmp_path / "my.jsonl").mkdir()
    answer = client.post("/items", json={"photo": upload(client), "true": ["a"], "false": ["b"]})
    assert answer.status_code == 500 and "my.jsonl" in answer.json()["error"]


def test_text_in_the_page_is_escaped(client):
    page = client.get("/").text
    assert "hacked" in page and "<script>document" not in page and "<img" not in page


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["run:runs/a", "hf:b/c"], {"a": "run:runs/a", "c": "hf:b/c"}),
        (["X=run:a", "run:sweeps/lr=1e-3"], {"X": "run:a", "lr=1e-3": "run:sweeps/lr=1e-3"}),
    ],
)
def test_names_of_models(texts, named):
    assert command.parse_models(texts) == named


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run:a/x", "run:b/x"], "model 'run:b/x' is called 'x': expected NAME=SOURCE, each name once"),
        (["run:a", "--save=my.csv"], r"--save my.csv: expected a file that ends in .jsonl"),
        (["run:a", "--save=my own.jsonl"], "would be called 'my own'"),
        (["run:a", "--port=65536"], "--port 65536: .*; choose another"),
    ],
)
def test_mistakes_in_flags(arguments, message):
    with pytest.raises(UserError, match=message):
        command.main(arguments)


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"uvicorn is not installed: run `pip install 'naturel_jax\[try\]'`"):
        command.main(["run:a"])


# ---- A process of its own, and its page ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """Name -> source of runs of both families."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("clip", "siglip"):
        naturel_jax.EmbeddingModel(family, *tiny(family)).save(folder / family, "run")
    return {family: f"run:{folder / family}" for family in ("clip", "siglip")}


@pytest.fixture(scope="module")
def served(models, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address that ``naturel-try`` prints, and the file of items; Ctrl-C ends it."""
    items = tmp_path_factory.mktemp("items") / "my.jsonl"
    flags = ["--port=0", f"--save={items}", f"--data_dir={data_dir()}"]
    program = [sys.executable, "-m", "naturel_jax.playground", *models.values(), *flags]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        try:
            assert line.startswith("http://127.0.0.1:"), process.stderr.read()
            yield line.split()[0], items
        finally:
            process.send_signal(2)
            assert "Traceback" not in process.communicate(timeout=60)[1] and process.returncode == 0


def ask(address: str, body: bytes | dict) -> dict:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with urllib.request.urlopen(address, data) as response:
        return json.load(response)


@pytest.mark.slow
def test_scores_and_items_are_those_of_the_python_api(served, models):
    address, items = served
    photo, captions = files.png(1, (90, 60)), ["a cat on a box", "a box on a cat", "hats"]
    key = ask(f"{address}/photos", photo)["photo"]
    scores = ask(f"{address}/scores", {"photo": key, "captions": captions})["scores"]
    loaded = {name: naturel_jax.load(source) for name, source in models.items()}
    for model, found in zip(loaded.values(), scores, strict=True):
        logits = model.logits([photo], captions)[0]
        np.testing.assert_allclose(found["cosine"], model.score([photo], captions)[0], atol=1e-5)
        np.testing.assert_allclose(found["softmax"], scipy.special.softmax(logits), atol=1e-5)
        if model is loaded["siglip"]:
            np.testing.assert_allclose(found["sigmoid"], scipy.special.expit(logits), atol=1e-5)
    assert scores[0]["sigmoid"] is None, "CLIP has no bias"
    ask(f"{address}/items", {"photo": key, "true": captions[:1], "false": captions[1:]})
    right, *wrong = scores[1]["cosine"]
    assert naturel_jax.evaluate(loaded["siglip"], f"pairs:{items}")["my/accuracy"] == float(right > max(wrong))


def write(page: Page, selector: str, text: str) -> None:
    page.click(selector)
    for letter in text:
        page.press(letter)


def choose(page: Page, file: Path) -> None:
    """Chooses a photo in the dialogue of the page."""
    node = page.send("DOM.querySelector", nodeId=page.send("DOM.getDocument")["root"]["nodeId"], selector="#files")
    page.send("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(file)])


def drop(page: Page, file: Path) -> None:
    """Drops a photo on the page."""
    photo = f"new File([new Uint8Array({list(file.read_bytes())})], '{file.name}')"
    data = f"(data => (data.items.add({photo}), data))(new DataTransfer())"
    page.run(f"document.body.dispatchEvent(new DragEvent('drop', {{ bubbles: true, dataTransfer: {data} }}))")


def press(page: Page, text: str) -> None:
    """Presses the first button with this text in the first caption."""
    mark = f"[...document.querySelectorAll('.caption:first-child .words button')].find(b => b.textContent === '{text}')"
    page.run(f"{mark}.id = 'word'")
    page.click("#word")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "give"), [((1440, 900), drop), ((390, 844), choose)], ids=["desk", "phone"])
def test_page_scores_typed_captions_exchanges_words_and_saves(page, served, size, give, tmp_path):
    address, items = served
    (tmp_path / "cat.png").write_bytes(files.png(size[0], (200, 150)))
    page.requests.clear()
    page.resize(*size)
    page.open(address)
    write(page, ".caption input", "The cat is on the box.")
    page.click("#more")
    write(page, ".caption:last-child input", HOSTILE[:80])
    give(page, tmp_path / "cat.png")
    bars = "[...document.querySelectorAll('.bar i')].map(bar => bar.getBoundingClientRect().width)"
    page.until(f"{bars}.length === 4 && document.querySelector('article img').naturalWidth === 200")
    press(page, "cat")
    press(page, "box")
    page.until(f"{bars}.length === 6")
    captions = ["The cat is on the box.", "The box is on the cat.", HOSTILE[:80]]
    assert page.run("[...document.querySelectorAll('.caption input')].map(input => input.value)") == captions
    assert page.run("[...document.querySelectorAll('.text span')].map(span => span.textContent)") == captions
    assert page.run("document.title") == "naturel-try"
    widths, full = page.run(bars), page.run("document.querySelector('.bar').getBoundingClientRect().width")
    for model in (widths[::2], widths[1::2]):
        assert sum(model) == pytest.approx(full, rel=0.02), "shares of the captions"
    page.click("tbody:nth-of-type(1) .true")
    page.click("tbody:nth-of-type(2) .false")
    page.click("article .menu button")
    page.until("!document.getElementById('saved').hidden")
    assert f"--benchmarks pairs:{items}" in page.run("document.getElementById('command').textContent")
    saved = json.loads(items.read_text().splitlines()[-1])
    assert (saved["caption"], saved["negatives"]) == (captions[:1], captions[1:2])
    for dark in (False, True):
        page.resize(*size, dark=dark)
        assert page.fits() and page.violations() == []
    page.run(f"upload([{{ name: 'large.jpg', size: {MAX_BYTES + 1} }}])")
    assert "large.jpg has" in page.run("document.getElementById('message').textContent"), "before it is sent"
    assert {request for request in page.requests if not request.startswith((f"{address}/", "about:"))} == set()


@pytest.mark.slow
def test_images_of_a_drawn_world_are_offered_with_their_captions(page, served):
    page.resize(1440, 900)
    page.open(served[0])
    page.click("#examples button:nth-child(2)")
    page.until("document.querySelectorAll('tbody').length === 2")
    marked = "[...document.querySelectorAll('.text [aria-pressed=true]')].map(button => button.textContent)"
    assert page.run(marked) == ["true", "false"] and page.run("document.querySelectorAll('.right, .wrong').length") == 2
