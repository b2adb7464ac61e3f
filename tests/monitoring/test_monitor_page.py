"""The monitor's page in a real browser, while real trainings go on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, browser
from command import ROOT, TINY, Started, run
from PIL import Image
from run_folders import write_run
from test_monitor_server import served

from detr.tracking.status import update_status

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]

SHOT = ROOT / "docs" / "images" / "monitor.png"
SEEN = "[...document.querySelectorAll('#runs tr')].map(row => row.innerText).join('|')"


def words(data: Path, *more: str) -> list[str]:
    """The quickstart's own detector, so that it learns something."""
    few = ["logger=none", "+dataset.counts={train: 160, val: 24, test: 12}", "dataloader.num_workers=0"]
    return ["train.py", *few, "dataloader.batch_size=8", "trainer.max_minutes=null", f"dataset.root={data}", *more]


def test_a_training_appears_and_moves_on_while_the_page_is_open(tmp_path: Path) -> None:
    runs = tmp_path / "outputs"
    runs.mkdir()
    evil = write_run(runs / "<b id=evil>x<b>", [0.1, 0.2], facts={"overrides": ["<img src=x onerror=alert(1)>"]})
    update_status(evil, status="failed", error="<script>alert(1)</script>")
    with served(runs) as server, browser(tmp_path / "profile") as page:
        page.call("Page.navigate", url=server.server.address)
        page.wait_for("document.querySelectorAll('#runs tr').length === 1")
        assert page.evaluate("document.querySelector('#evil, #runs img, #runs script') === null")
        assert "<script>alert(1)</script>" in page.evaluate(SEEN)
        given = [*TINY, "trainer.max_epochs=40", "trainer.max_steps=null", f"dataset.root={tmp_path}/data"]
        training = Started("train.py", *given, f"hydra.run.dir={runs}/new")
        try:
            page.wait_for("document.querySelector('tr.running') !== null")
            page.wait_for("/epoch [1-9]/.test(document.querySelector('tr.running')?.innerText)")
            first = page.evaluate("document.querySelector('tr.running').innerText")
            points = "document.querySelectorAll('.plot polyline.c0')[0]?.getAttribute('points').split(' ').length"
            drawn = page.wait_for(points)
            page.wait_for(f"{points} > {drawn}")
            assert page.evaluate("document.querySelector('tr.running').innerText") != first
            assert page.wait_for("document.querySelector('tr.running .left')?.innerText.match(/ s|min|soon/)")
            page.evaluate("document.querySelector('#pictures').scrollIntoView()")
            page.wait_for(
                "[...document.images].length > 0 && [...document.images].every(each => each.naturalWidth > 0)"
            )
            page.evaluate("filter.value = 'evil'; filter.dispatchEvent(new Event('input'))")
            assert page.evaluate("[...document.querySelectorAll('#runs tr')].filter(row => !row.hidden).length") == 1
            training.kill()
            page.wait_for("document.querySelector('tr.interrupted') !== null")
        finally:
            training.kill()
        said = [line for line in page.said if "favicon" not in line]
        assert said == []
        assert all(url.startswith((server.server.address, "data:", "about:")) for url in page.asked)
        assert sum("/changes" in url for url in page.asked) > 3


def test_the_picture_in_the_docs(tmp_path: Path) -> None:
    """Of a sweep that is over but for its last job, which is under way."""
    runs = tmp_path / "outputs"
    data = tmp_path / "data"
    sweep = ["-m", "optimizer.lr=1e-3,3e-4,1e-4", "trainer.max_epochs=4", f"hydra.sweep.dir={runs}/sweep/lr"]
    done = run(*words(data, *sweep), timeout=900)
    assert done.returncode == 0, done.stderr
    with served(runs) as server, browser(tmp_path / "profile") as page:
        under_way = ["trainer.max_epochs=8", "optimizer.lr=2e-3", f"hydra.run.dir={runs}/train/higher"]
        training = Started(*words(data, *under_way))
        try:
            page.call("Page.navigate", url=server.server.address)
            page.wait_for("/epoch [2-9]/.test(document.querySelector('tr.running')?.innerText)", 300)
            page.evaluate("document.querySelectorAll('#runs input:not(:checked)').forEach(each => each.click())")
            page.wait_for("document.querySelectorAll('.plot')[0]?.querySelectorAll('polyline').length === 4")
            page.evaluate("document.getElementById('folder').textContent = 'outputs'")
            page.call("Emulation.setDeviceMetricsOverride", width=1280, height=1500, deviceScaleFactor=1, mobile=False)
            page.wait_for("document.images.length >= 4 && [...document.images].every(each => each.naturalWidth > 0)")
            page.screenshot(tmp_path / "shot.png", 1280, 1180)
        finally:
            training.kill()
        href = page.evaluate("document.getElementById('compare').href")
        page.call("Page.navigate", url=href)
        page.wait_for("document.querySelectorAll('.verdict').length === 3")
    picture = Image.open(tmp_path / "shot.png").convert("RGB")
    pixels = np.asarray(picture)
    assert pixels.shape == (1180, 1280, 3)
    assert 0.1 < (pixels != pixels[0, 0]).any(axis=2).mean() < 0.9
    picture.quantize(256, dither=Image.Dither.NONE).save(SHOT, optimize=True)
    assert 20_000 < SHOT.stat().st_size < 300_000
