"""Executes the tutorial's notebook, keeps its outputs in docs/tutorial.ipynb, and takes the documentation's pictures of
what it leaves behind.

    python .ci/pictures.py                    # make pictures; a few minutes
    python .ci/pictures.py --only_pictures    # of what build/tutorial has

Pages are taken in Chromium, in light and dark. docs/assets/batch_and_ring.svg and exchange.svg come from `make pages`.
"""

import argparse
import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

from tfds_naturel.scenes.__main__ import sheet
from tfds_naturel.scenes.scene import CONFIGS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # as a script, this file has only its own folder there

import pages  # noqa: E402

from tests.helpers.browser import Page, browser  # noqa: E402

NOTEBOOK, ASSETS, FOLDER = ROOT / "docs/tutorial.ipynb", ROOT / "docs/assets", ROOT / "build/tutorial"
RUN = FOLDER / "runs/negclip_sp_scenes"

# ---- The notebook ----------------------------------------------------------------------------------------------------


def execute() -> None:
    """Runs the blocks of the tutorial in an empty ``FOLDER``, and writes what they print and show into ``NOTEBOOK``."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    page = NOTEBOOK.with_suffix(".md").read_text("utf-8")
    notebook = nbformat.reads(pages.notebook(page), as_version=4)
    NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(FOLDER)}}).execute()
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.outputs = _kept(cell.outputs)
    NOTEBOOK.write_text(pages.notebook(page, json.dumps(notebook)), "utf-8")


def _kept(outputs: Sequence[Any]) -> list[dict[str, Any]]:
    """What a cell printed, without its log, and the picture that it showed, as a small JPEG."""
    kept = []
    if printed := "".join(output.text for output in outputs if output.get("name") == "stdout"):
        kept.append({"output_type": "stream", "name": "stdout", "text": printed.strip().splitlines(keepends=True)})
    for output in outputs:
        if png := output.get("data", {}).get("image/png"):
            image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
            image.thumbnail((560, 1600))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=70)
            jpeg = base64.b64encode(buffer.getvalue()).decode()
            kept.append({"output_type": "display_data", "data": {"image/jpeg": jpeg}, "metadata": {}})
    return kept


# ---- Pictures --------------------------------------------------------------------------------------------------------


def save(image: Image.Image, name: str) -> None:
    """Writes docs/assets/<name>.webp and says how large it is."""
    file = ASSETS / f"{name}.webp"
    image.convert("RGB").save(file, quality=80, method=6)
    print(f"{file.relative_to(ROOT)}: {image.width} x {image.height}, {file.stat().st_size / 1e3:.0f} KB")


def drawings() -> None:
    """The drawn world, the top of a run's first batch, and its curves."""
    save(Image.fromarray(sheet(CONFIGS["scenes"], 5)[: 3 * 216]), "world")
    batch = Image.open(RUN / "first_batch.png")
    save(batch.crop((0, 0, batch.width, 680)), "first_batch")
    curves = Image.open(RUN / "accuracy.png")
    curves.thumbnail((640, 2000))
    save(curves, "curves")


def screenshots() -> None:
    """The report, and the gallery of what only the second model gets right, in light and dark."""
    files = {"report": FOLDER / "results/report.html", "gallery": next(FOLDER.glob("results/compare/**/*.html"))}
    with browser() as page:
        page.send("Emulation.setScrollbarsHidden", hidden=True)
        for name, file in files.items():
            for suffix, dark in (("", False), ("_dark", True)):
                page.resize(1100, 760, dark=dark)
                page.open(file.as_uri())
                page.run(
                    "[...document.querySelectorAll('button')].find(b => /^only .*SP right/.test(b.innerText))?.click()"
                )
                save(shot(page), name + suffix)


def shot(page: Page) -> Image.Image:
    """What the window shows."""
    return Image.open(io.BytesIO(base64.b64decode(page.send("Page.captureScreenshot", format="png")["data"])))


def playground() -> None:
    """The page of naturel-try with both models and an image of the drawn world, and two words exchanged."""
    command = [sys.executable, "-m", "naturel_jax.playground", "run:runs/clip_scenes", "run:runs/negclip_sp_scenes"]
    with subprocess.Popen([*command, "--port=0"], cwd=FOLDER, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = process.stdout.readline().split()[0]
            with browser() as page:
                page.send("Emulation.setScrollbarsHidden", hidden=True)
                page.resize(1100, 620)
                page.open(address)
                page.click("#examples button:nth-child(3)")
                for n in (2, 8):  # of "A rucksack was on top of a gentleman."
                    page.click(f".words button:nth-child({n})")
                page.until("document.querySelectorAll('tbody').length === 3")
                page.run("scrollTo(0, 0)")
                save(shot(page), "playground")
        finally:
            process.terminate()


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only_pictures", action="store_true", help="do not execute the notebook again")
    if not parser.parse_args(arguments).only_pictures:
        execute()
    drawings()
    screenshots()
    playground()


if __name__ == "__main__":
    main(sys.argv[1:])
