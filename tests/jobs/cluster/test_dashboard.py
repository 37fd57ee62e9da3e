"""The Grafana dashboard asks for exactly the metrics that a run exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

from wanbatch.jobs.config.metrics import METRICS

DASHBOARD = Path(__file__).parents[3] / "jobs/cluster/deploy/grafana-dashboard.json"


def test_the_dashboard_shows_every_metric_and_no_other():
    text = DASHBOARD.read_text()
    assert set(re.findall(r"ray_wanbatch_\w+", text)) == {spec.exported for spec in METRICS}


def test_the_dashboard_groups_and_names_series_by_tags_that_they_have():
    specs = {spec.exported: spec for spec in METRICS}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            used = {specs[name] for name in re.findall(r"ray_wanbatch_\w+", target["expr"])}
            tags = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            tags |= set(re.findall(r"by \((\w+)\)", target["expr"])) | set(re.findall(r"(\w+)=~", target["expr"]))
            assert tags
            assert all(tags <= set(spec.tags) for spec in used), panel["title"]
