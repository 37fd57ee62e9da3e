"""The picture of the architecture shows the imports that there are."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import draw_architecture
import networkx as nx
import pytest
from draw_architecture import PICTURE, drawing, wings_of_wanbatch


def test_the_committed_picture_is_what_the_code_says():
    now = drawing(wings_of_wanbatch())
    assert PICTURE.read_text(encoding="utf-8") == now, "run `make docs` and commit it"


def test_an_import_is_an_arrow_dashed_where_longer_ways_lead_there():
    wings = nx.DiGraph(
        [("jobs.cli", "jobs.driver"), ("jobs.driver", "pipeline.generate"), ("jobs.cli", "pipeline.generate")]
    )
    text = drawing(wings)
    arrows = re.findall(r'<path class="([a-z ]+)".*<title>(.*)</title>', text)
    assert set(arrows) == {
        ("jobs", "jobs.cli imports jobs.driver"),
        ("jobs", "jobs.driver imports pipeline.generate"),
        ("jobs follows", "jobs.cli imports pipeline.generate"),
    }
    boxes = [
        one for one in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}rect") if "wing" in one.get("class", "")
    ]
    assert len(boxes) == 3


def test_a_wing_without_a_place_is_named():
    with pytest.raises(ValueError, match=r"jobs\.elsewhere: give it a place in WINGS"):
        drawing(nx.DiGraph([("jobs.elsewhere", "jobs.driver")]))


def test_boxes_stand_inside_their_folders_and_apart():
    width, height = draw_architecture.BOX
    for wing, (x, y) in draw_architecture.WINGS.items():
        left, top, wide, high = draw_architecture.FOLDERS[wing.split(".")[0]]
        assert left < x - width / 2, wing
        assert x + width / 2 < left + wide, wing
        assert top < y - height / 2, wing
        assert y + height / 2 < top + high, wing
        for other, (to_x, to_y) in draw_architecture.WINGS.items():
            assert other == wing or abs(x - to_x) > width or abs(y - to_y) > height, (wing, other)
