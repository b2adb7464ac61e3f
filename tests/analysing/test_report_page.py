"""The error report in a real browser, and the picture of it in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, browse
from command import ROOT
from PIL import Image
from run_folders import expected_ap, write_data, write_run

from detr.commands.analyse import analyse

REAL = ROOT / "outputs" / "analysis"  # the run whose command stands under the picture
SHOT = ROOT / "docs" / "images" / "analysis.jpg"
PROBE = """<script>
addEventListener("load", () => {
  const loaded = [...document.images].every(image => image.complete && image.naturalWidth > 0);
  const fetched = performance.getEntriesByType("resource").filter(each => !each.name.startsWith("data:")).length;
  const wide = document.documentElement.scrollWidth > innerWidth;
  document.body.dataset.probe = [loaded, document.images.length, fetched, wide].join("|");
});
</script></body>"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]


def test_pictures_load_nothing_is_fetched_and_nothing_is_cut_off(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [expected_ap(8)], data=write_data(tmp_path / "data"), right=8)
    analyse(run)
    text = (run / "analysis.html").read_text().replace("</body>", PROBE)
    page = tmp_path / "probed.html"
    page.write_text(text.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'"))
    done = browse(page, tmp_path, "--dump-dom", "--window-size=1240,1600")
    assert ":CONSOLE" not in done.stderr
    probe = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert probe is not None, done.stderr
    loaded, images, fetched, wide = probe[1].split("|")
    assert (loaded, fetched, wide) == ("true", "0", "false")
    assert int(images) >= 3


@pytest.mark.skipif(not REAL.exists(), reason=f"needs the run of docs/analysing.md in {REAL}")
def test_the_picture_in_the_docs(tmp_path: Path) -> None:
    analyse(REAL, output=str(tmp_path))
    page, shot = tmp_path / "analysis.html", tmp_path / "page.png"
    page.write_text(page.read_text().replace(str(REAL), "outputs/analysis"))  # where it lies says nothing
    browsed = browse(page, tmp_path, f"--screenshot={shot}", "--window-size=1240,2560")
    assert ":CONSOLE" not in browsed.stderr
    picture = Image.open(shot).convert("RGB")
    pixels = np.asarray(picture)
    assert pixels.shape == (2560, 1240, 3)
    assert 0.05 < (pixels != pixels[0, 0]).any(axis=2).mean() < 0.9
    picture.save(SHOT, quality=70)
    assert 100_000 < SHOT.stat().st_size < 300_000
