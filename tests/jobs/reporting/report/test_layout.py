"""Where a browser puts the parts of a report. Skipped without Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from PIL import Image

from wanbatch.jobs.reporting.report.cards import SOURCES_SHOWN, Card
from wanbatch.jobs.reporting.report.page import environment
from wanbatch.jobs.reporting.report.sources import SourceThumbnail
from wanbatch.jobs.reporting.report.thumbnails import thumbnail

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGE = """{% from "parts.html" import figure %}<!doctype html><style>{% include "style.css" %}</style>
<body>{% for card in cards %}<div style="width:260px">{{ figure(card) }}</div>{% endfor %}
<pre id="found"></pre><script>
addEventListener("load", () => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom] }
  const found = []
  for (const pair of document.querySelectorAll(".pair")) {
    const images = [...pair.querySelectorAll("img")]
    for (const image of images) image.loading = "eager"
    found.push({pair: box(pair), images: images.map(box), of: images.map(i => box(i.parentElement))})
  }
  document.getElementById("found").textContent = JSON.stringify(found)
})
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_all_sources_of_a_picture_are_seen_whole(tmp_path):
    """As many as are shown, or fewer. None is cut off by the edges of the card, and none lies over another."""
    small = thumbnail(Image.new("RGB", (128, 128), "red"))
    sources = [SourceThumbnail(f"{number}.png", small, None) for number in range(SOURCES_SHOWN)]
    counts = range(1, SOURCES_SHOWN + 1)
    cards = [Card("a", small, "a cat", {"creativity": "0.5"}, (), sources[:count], 0, (), 0) for count in counts]
    page = tmp_path / "page.html"
    page.write_text(environment().from_string(PAGE).render(cards=cards), "utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/user"]
    shown = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True, timeout=300
    )
    pairs = json.loads(re.search(r'<pre id="found">(.*?)</pre>', shown.stdout)[1])  # type: ignore[index]
    for count, pair in zip(counts, pairs, strict=True):
        assert len(pair["images"]) == count + 1
        _check_seen(pair)


def _check_seen(found: dict) -> None:
    """Check the boxes of one picture and its sources."""
    for left, top, right, bottom in found["images"]:
        assert right - left >= 50
        assert bottom - top >= 50
    for image, around in zip(found["images"], found["of"], strict=True):
        assert _inside(image, around)
        assert _inside(around, found["pair"])
    boxes = found["images"]
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart, (one, other)


def _inside(inner: list[float], outer: list[float]) -> bool:
    """Whether a box (left, top, right, bottom) lies in another one, up to a pixel."""
    return all(a >= b - 1 for a, b in zip(inner[:2], outer[:2], strict=True)) and all(
        a <= b + 1 for a, b in zip(inner[2:], outer[2:], strict=True)
    )
