"""Schedules for cron, systemd and Kubernetes: what they take, and at the same times as the service."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import islice

import jsonschema
import pytest
import yaml
from kubernetes_objects import check_object
from schedule_world import at, schedule

from wanbatch.errors import UserError
from wanbatch.jobs.schedule.cron_fields import cron_fields
from wanbatch.jobs.schedule.export import exported
from wanbatch.jobs.schedule.export_cron import crontab
from wanbatch.jobs.schedule.export_kubernetes import cron_job
from wanbatch.jobs.schedule.export_systemd import calendars, systemd_units
from wanbatch.jobs.schedule.ticks import plain_cron, ticks

TICK = (
    "/opt/my venv/bin/python",
    "-m",
    "wanbatch.jobs.cli",
    "schedule",
    "tick",
    "nightly",
    "--file",
    "/srv/50%/$x.toml",
)
CRONS = [
    "30 2 * * *", "*/15 6-8 * * MON-FRI", "0 0 1,15 * FRI", "0 12 */2 * *", "0 3 */2 * MON", "5 0 29 2 *",
    "0 0 * * 7", "0 0 1-31 * MON", "59 23 31 1,12 0",
]  # fmt: skip
SPECIAL = ["0 6 L * *", "0 6 * * FRI#2", "0 6 * * 5L", "0 6 * 3 MON#1,THU", "0 6 L 2 MON", "0 6 15 * MON#5"]

systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def elapses(calendar: str, count: int, since: datetime) -> list[datetime]:
    """When systemd would start a timer."""
    base = since.strftime("%Y-%m-%d %H:%M:%S UTC")
    command = ["systemd-analyze", "calendar", f"--iterations={count}", f"--base-time={base}", calendar]
    done = subprocess.run(command, capture_output=True, text=True, env={"TZ": "UTC"}, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [line.partition(": ")[2] for line in done.stdout.splitlines() if "elapse:" in line or "Iter." in line]
    return [datetime.strptime(line, "%a %Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC) for line in lines]


@systemd
@pytest.mark.parametrize("cron", CRONS + SPECIAL)
def test_timers_start_when_the_service_would(cron):
    """The first ones of a year, in summer and winter; the hours are not those in which clocks change."""
    one = schedule(cron=plain_cron(cron), zone="America/New_York")
    for since in (at("2026-01-01 00:00"), at("2026-06-30 12:00")):
        wanted = list(islice(ticks(one.cron, one.zone, since), 12))
        found = {time for each in calendars(one) for time in elapses(f"{each} {one.zone.key}", 12, since)}
        assert sorted(found)[:12] == wanted


@systemd
def test_systemd_takes_the_units(tmp_path):
    one = schedule(cron="0 0 1,15 * FRI", zone="Europe/Berlin")
    units = systemd_units(one, ["/bin/echo", "50%", "a b", 'c"d', "$HOME"], str(tmp_path))
    assert sorted(units) == ["wanbatch-nightly.service", "wanbatch-nightly.timer"]
    for name, text in units.items():
        (tmp_path / name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in units)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    wrong = units["wanbatch-nightly.timer"].replace("Europe/Berlin", "Europe/Berln").replace("OnCal", "OnCal", 1)
    (tmp_path / "wanbatch-nightly.timer").write_text(wrong)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Failed to parse calendar specification" in done.stderr, "the check would notice"


def test_what_units_say():
    units = systemd_units(schedule(catch_up="none"), TICK, "/srv/50% more")
    timer, service = units["wanbatch-nightly.timer"], units["wanbatch-nightly.service"]
    assert "OnCalendar=*-*-* 2:30:00 Europe/Berlin\nPersistent=false\n" in timer
    assert "WorkingDirectory=/srv/50%% more\n" in service
    assert 'ExecStart="/opt/my venv/bin/python" -m wanbatch.jobs.cli schedule tick nightly' in service
    assert "--file /srv/50%%/$$x.toml\n" in service
    assert "KillMode=mixed" in service
    assert "Persistent=true" in systemd_units(schedule(), TICK, "/srv")["wanbatch-nightly.timer"]


@pytest.mark.parametrize(
    ("cron", "told"),
    [("0 6 LW * *", "LW, the last weekday"), ("0 6 */2 * MON#1", "both a day of the month and a weekday")],
)
def test_what_no_timer_says(cron, told):
    with pytest.raises(UserError, match=told):
        list(calendars(schedule(cron=cron)))


def test_crontab():
    text = crontab([(schedule(), TICK), (schedule("york", "0 6 * * MON", "America/New_York"), TICK)], "/srv/my shop")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "CRON_TZ=Europe/Berlin"
    assert lines[1].startswith(
        "30 2 * * * cd '/srv/my shop' && '/opt/my venv/bin/python' -m wanbatch.jobs.cli schedule "
    )
    assert lines[1].endswith("--file '/srv/50\\%/$x.toml'")
    assert lines[2] == "CRON_TZ=America/New_York"
    for cron in SPECIAL[:3]:
        with pytest.raises(UserError, match="L and # are not known to other crons"):
            crontab([(schedule(cron=cron), TICK)], "/srv")


@pytest.mark.parametrize(
    ("cron", "written"),
    [
        ("30 2 * * *", "30 2 * * *"),
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * SAT,7", "0 0 * * 0,6"),
        ("*/30 6 */10 JAN *", "0,30 6 1,11,21,31 1 *"),
        ("0 0 1,15 * FRI", "0 0 1,15 * 5"),
        ("0 0 1-31 * MON", "0 0 * * *"),
    ],
)
def test_the_cron_of_a_cron_job(cron, written):
    job = cron_job(schedule(cron=cron, source="s3://shop/rows.parquet", output="s3://shop/out"), "image:1")
    check_object(job)
    assert job["spec"]["schedule"] == written


@pytest.mark.parametrize("cron", [*SPECIAL[:4], "0 3 */2 * MON"])
def test_what_no_cron_job_says(cron):
    with pytest.raises(UserError, match="a CronJob knows neither L nor #, and no day that must be both"):
        cron_job(schedule(cron=cron, source="s3://shop/rows.parquet", output="s3://shop/out"), "image:1")


def test_a_cron_job_on_a_volume():
    one = schedule("Big_One", source="/srv/shop/rows.jsonl", output="/srv/shop/out", deadline=timedelta(hours=2),
                   flags=("--steps", "30"))  # fmt: skip
    common = {"steps": 4, "strict": False, "allow_http": True}
    job = cron_job(one, "registry/wanbatch:1", claim="shop-data:/srv/shop/", gpus=2, settings=common)
    check_object(job)
    spec, pod = job["spec"], job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert job["metadata"]["name"] == "wanbatch-big-one"
    assert (spec["timeZone"], spec["concurrencyPolicy"], spec["startingDeadlineSeconds"]) == (
        "Europe/Berlin",
        "Forbid",
        7200,
    )
    [container] = pod["containers"]
    assert container["command"] == [
        "wanbatch", "run", "/srv/shop/rows.jsonl", "--out", "/srv/shop/out", "--rerun-changed", "--allow-http",
        "--steps", "30",
    ]  # fmt: skip
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "shop-data"
    assert container["volumeMounts"][0]["mountPath"] == "/srv/shop"
    broken = json.loads(json.dumps(job))
    broken["spec"]["startingDeadline"] = broken["spec"].pop("startingDeadlineSeconds")
    with pytest.raises(jsonschema.ValidationError):
        check_object(broken)


@pytest.mark.parametrize(
    ("fields", "options", "told"),
    [
        ({}, {}, "/nightly.jsonl: is not in the container: name a volume that it is on, with --claim NAME:PATH"),
        ({}, {"claim": "data:/nightl"}, "is not in the container"),
        ({}, {"claim": "data"}, "--claim data: must be NAME:PATH, like shop-data:/srv/shop"),
        ({"name": "n" * 50, "source": "s3://a/b", "output": "s3://a/c"}, {}, "a CronJob's name has at most 52"),
    ],
)
def test_what_a_cron_job_cannot_have(fields, options, told):
    with pytest.raises(UserError) as caught:
        cron_job(schedule(**fields), "image:1", **options)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("code", "becomes"), [(1, "FailJob"), (2, "FailJob"), (3, "FailJob"), (4, "Count"), (75, "Count"), (137, "Count")]
)
def test_which_pods_are_started_again(code, becomes):
    """The first rule that fits an exit code decides, as Kubernetes has it; what counts is tried again."""
    job = cron_job(schedule(source="s3://shop/rows.parquet", output="s3://shop/out"), "image:1")
    rules = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    of_codes = [(rule["action"], rule["onExitCodes"]) for rule in rules if "onExitCodes" in rule]
    assert becomes == next(
        action for action, codes in of_codes if (code in codes["values"]) == (codes["operator"] == "In")
    )


def test_on_a_cluster_a_cron_job_submits():
    one = schedule(source="s3://shop/rows.parquet", output="s3://shop/out", address="http://head:8265")
    [container] = cron_job(one, "image:1")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][:2] == ["wanbatch", "submit"]
    recipe = schedule(is_recipe=True, output="s3://shop/out", address="http://head:8265")
    [container] = cron_job(recipe, "image:1", claim="d:/")["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["command"][1] == "augment"
    assert container["command"][-2:] == ["--submit-to", "http://head:8265"]


def test_what_is_left_out_is_warned_of(tmp_path):
    file = tmp_path / "wanbatch.toml"
    file.write_text("")
    one = schedule(overlap="queue", source="s3://shop/rows.parquet", output="s3://shop/out")
    files, warnings = exported("kubernetes", [one], file, tmp_path, image="image:1", claim=None, gpus=0)
    check_object(yaml.safe_load(files["wanbatch-cronjobs.yaml"]))
    assert ["overlap = queue" in warning or "keeps no ledger" in warning for warning in warnings] == [True, True]
    assert exported("systemd", [one], file, tmp_path, image=None, claim=None, gpus=0)[1]
    with pytest.raises(UserError, match="--image is missing"):
        exported("kubernetes", [one], file, tmp_path, image=None, claim=None, gpus=0)
    with pytest.raises(UserError, match="--gpus is for --format kubernetes alone"):
        exported("cron", [one], file, tmp_path, image=None, claim=None, gpus=1)


def test_fields_by_number():
    found = cron_fields("0 6 L * MON#2,FRI,0")
    assert (found.last_day, found.weekdays, found.nth_weekdays, found.both) == (True, (0, 5), ((1, 2),), False)
