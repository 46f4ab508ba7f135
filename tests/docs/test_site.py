"""The built site in a browser, on a desk in light and on a phone in dark."""

import subprocess

import pytest

from tests.helpers.browser import browser
from tests.helpers.documents import ROOT
from tests.helpers.loopback import serve

pytestmark = pytest.mark.slow

SCHEMES = {"light": "default", "dark": "slate"}
TALLEST = "Math.max(0, ...[...document.querySelectorAll('tr')].map(row => row.offsetHeight / innerHeight))"


def test_every_page_fits_and_axe_finds_nothing():
    subprocess.run(["make", "docs"], cwd=ROOT, check=True)
    site = ROOT / "build" / "site"
    faults = []
    with serve(site) as (address, _), browser() as page:
        for file in sorted(site.rglob("*.html")):
            name = str(file.relative_to(site))
            for where in page.everywhere(f"{address}/{name}", ("desk, light", "phone, dark")):
                found = page.violations()
                found += [] if page.fits() else ["wider than the window"]
                scheme = page.run("document.body.dataset.mdColorScheme")
                found += [] if scheme == SCHEMES[where.split(", ")[1]] else [f"its colours are those of {scheme}"]
                found += [] if page.run(TALLEST) < 1 else ["a row of a table is higher than the window"]
                faults += [f"{name} ({where}): {fault}" for fault in found]
        foreign = [request for request in page.requests if not request.startswith((address, "about:", "data:"))]
    assert not faults, "\n".join(faults)
    assert foreign == []
