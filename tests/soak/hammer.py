"""A job under a hammer: its workers and its driver are killed at random instants until it has had enough.

    python tests/soak/hammer.py FOLDER [--kills 200] [--errors 0] [--rows 500] [--seed 0] [--seconds 420]
                                       [--out RESULT.json]

With `--errors`, so many system calls of the driver on files of the output fail besides, at random: opening, looking,
reading, listing, renaming, linking, removing, syncing, writing, with ESTALE, EIO, EACCES or ENOENT.

A quarter of the rows are pictures of the tiny model, most others come from a fake pipeline; some kill their worker
each time, some have bad sources. What the hammer does follows from the seed; when it hits, from the clock.
Every kill is noted in FOLDER/kills.jsonl. Ends after `--seconds` at the latest and goes on when it is started
again: with the kills, then with the rest of the job, undisturbed, then with an undisturbed run of the same rows to
compare with. Exits with 0 when all is verified, 9 when there is more to do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "support"))

import psutil  # noqa: E402
from failing_calls import compiled  # noqa: E402
from fault_making import expected_hashes  # noqa: E402
from job_making import commits, environment, log_events, part_files, picture, pictures, rows_by_id, workers_of  # noqa: E402

from wanbatch.jobs.config.hardware import cpu_name  # noqa: E402

SIZE = 64
PAUSE = 0.5  # seconds a row takes the fake pipeline, so that kills find workers in the middle of units
WORKERS = 3
SETTINGS = {"model": "tiny", "width": SIZE, "height": SIZE, "steps": 2, "unit-rows": 4, "threads": 1}
DRIVER_LIFE = {"real": 60.0, "fake": 25.0}  # seconds, on average
BETWEEN_KILLS = {"real": 6.0, "fake": 1.2}  # seconds, on average; a real pipeline takes long to load
BETWEEN_ERRORS = 0.5  # seconds, on average
ALLOWED_CODES = {2, 75}  # of commands that an error ended: another look at the folder is needed, or another try
MORE_TO_DO = 9


class Soak:
    """One job and what was done to it; what is noted in its folder outlives this process."""

    def __init__(self, folder: Path, rows: int, kills: int, errors: int, seed: int, seconds: float):
        self.folder, self.kills, self.errors, self.seed = folder, kills, errors, seed
        self.end = time.monotonic() + seconds
        self.out, self.manifest = folder / "out", folder / "m.jsonl"
        self.no_real_left, self.log = folder / "no-real-left", folder / "kills.jsonl"
        self.rows = self._rows(rows)
        folder.mkdir(parents=True, exist_ok=True)
        if not self.manifest.exists():
            self._write_inputs()

    # ---- the job ---------------------------------------------------------------------------------------------

    def _rows(self, count: int) -> list[dict]:
        kinds = {"real": count // 4, "kill": max(1, count // 62), "bad": max(3, count // 40)}
        real = [self._row(f"real-{number:03d}") for number in range(kinds["real"])]
        others = [self._row(f"kill-{number}") for number in range(kinds["kill"])]
        bad = ("nowhere.png", "cut.png", "page.png")
        others += [{**self._row(f"bad-{number}"), "image": bad[number % 3]} for number in range(kinds["bad"])]
        others += [self._row(f"fake-{number:03d}") for number in range(count - len(real) - len(others))]
        random.Random(self.seed).shuffle(others)
        return real + others

    @staticmethod
    def _row(name: str) -> dict:
        return {"id": name, "prompt": f"a picture called {name}", "width": SIZE, "height": SIZE}

    def _write_inputs(self) -> None:
        whole = picture(self.folder / "whole.png", SIZE, SIZE).read_bytes()
        (self.folder / "cut.png").write_bytes(whole[: len(whole) // 2])
        (self.folder / "page.png").write_text("<!doctype html><title>404 Not Found</title>")
        self.manifest.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def ids(self, *kinds: str) -> set[str]:
        return {row["id"] for row in self.rows if row["id"].split("-")[0] in kinds}

    def _faults(self) -> dict[str, str]:
        """The environment of a command whose system calls fail."""
        seed = f"{self.seed}-{len(self.noted())}"
        return {"LD_PRELOAD": str(compiled(self.folder)), "SOAK_FAULTS": f"{seed} {BETWEEN_ERRORS} {self.log}"}

    def start(self, manifest: Path, out: Path, pause: float, faulty: bool = False) -> subprocess.Popen:
        """Start the command. faulty: some of its system calls fail."""
        no_real_left = self.no_real_left if out == self.out else self.folder / "never"
        command = [sys.executable, HERE / "soaked_run.py", no_real_left, pause, "run", manifest, "--out", out]
        for name, value in {**SETTINGS, "workers": WORKERS}.items():
            command += [f"--{name}", value]
        path = os.pathsep.join([str(HERE), str(HERE.parent / "support"), os.environ.get("PYTHONPATH", "")])
        errors = (self.folder / "driver.err").open("a")
        return subprocess.Popen(
            list(map(str, command)),
            env=environment(PYTHONPATH=path, OMP_NUM_THREADS="1", **(self._faults() if faulty else {})),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )

    # ---- the hammer ------------------------------------------------------------------------------------------

    def noted(self, kind: str | None = None) -> list[dict]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [record for record in map(json.loads, lines) if kind is None or record["kind"] == kind]

    def killed(self) -> int:
        return len(self.noted("worker")) + len(self.noted("driver"))

    def note(self, kind: str, **fields) -> None:
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind, **fields}
        with self.log.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def enough(self) -> bool:
        return self.killed() >= self.kills and len(self.noted("error")) >= self.errors

    def hammer(self) -> None:
        """Kill until enough was killed and enough calls have failed, or time is up."""
        while not self.enough() and time.monotonic() < self.end:
            chance = random.Random(f"{self.seed} {len(self.noted())}")
            driver = self.start(self.manifest, self.out, PAUSE, faulty=self.errors > 0)
            try:
                self._hammer_one(driver, chance)
            finally:
                driver.kill()
                driver.wait()

    def _hammer_one(self, driver: subprocess.Popen, chance: random.Random) -> None:
        """Kill workers of a driver, and in the end itself."""
        phase = "fake" if self._all_real_made() else "real"
        dies_at = time.monotonic() + 1 + chance.expovariate(1 / DRIVER_LIFE[phase])
        while time.monotonic() < self.end:
            phase = "fake" if self._all_real_made() else "real"
            wait_until = min(dies_at, time.monotonic() + chance.expovariate(1 / BETWEEN_KILLS[phase]))
            time.sleep(max(0.0, wait_until - time.monotonic()))
            if (code := driver.poll()) is not None:
                self.note("ended", code=code)
                if code in (0, 3):
                    raise SystemExit(f"the job was done after {self.killed()} kills: give it more rows")
                return
            if time.monotonic() >= dies_at:
                driver.kill()
                self.note("driver", pid=driver.pid, commits=len(commits(self.out)))
                return
            self._kill_a_worker(driver.pid, chance, phase)
            if self.enough():
                return

    def _kill_a_worker(self, driver: int, chance: random.Random, phase: str) -> None:
        try:
            victim = chance.choice(sorted(workers_of(driver), key=lambda process: process.pid))
            title = victim.cmdline()[0]
            victim.kill()
        except (IndexError, psutil.Error):  # none there yet, or it has just died of something else
            return
        self.note(
            "worker",
            pid=victim.pid,
            was={"ray::Worker.ready": "loading", "ray::Worker": "idle"}.get(title, "at work"),
            phase=phase,
        )

    def _all_real_made(self) -> bool:
        if not self.no_real_left.exists() and self.ids("real") <= self._committed():
            self.no_real_left.touch()
        return self.no_real_left.exists()

    def _committed(self) -> set[str]:
        records = (json.loads(line) for path in commits(self.out) for line in path.read_text().splitlines())
        return {name for record in records for name in (*record["ids"], *record["failed"])}

    # ---- after it --------------------------------------------------------------------------------------------

    def run_to_end(self, name: str, manifest: Path, out: Path, pause: float) -> bool:
        """Run the command, undisturbed. False if time is up; it goes on the next time."""
        if any(record["run"] == name for record in self.noted("finished")):
            return True
        command = self.start(manifest, out, pause)
        try:
            code = command.wait(timeout=max(1.0, self.end - time.monotonic()))
        except subprocess.TimeoutExpired:
            command.terminate()  # and it stops by itself
            command.wait()
            return False
        if code != 3:
            raise SystemExit(f"the undisturbed run ended with {code}; see {self.folder / 'driver.err'}")
        self.note("finished", run=name)
        return True

    def undisturbed(self) -> Path:
        """The rows without those that kill, in the folder of a run that nobody disturbs."""
        manifest = self.folder / "undisturbed.jsonl"
        rows = [row for row in self.rows if not row["id"].startswith("kill-")]
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return manifest

    def verified(self) -> dict:
        """What came of it. Raises AssertionError if anything is not as promised."""
        good, bad, deadly = self.ids("real", "fake"), self.ids("bad"), self.ids("kill")
        hashes, undisturbed = pictures(self.out), pictures(self.folder / "undisturbed")
        assert set(hashes) == good, "made: exactly the good rows, each once"
        assert hashes == undisturbed, "the pixels of a run that nobody disturbed"
        names = self.ids("fake")
        assert {name: hashes[name] for name in names} == expected_hashes(*names, size=SIZE), "and of the rows' seeds"
        failures = rows_by_id(self.out, "failures")
        classes = {name: row["error_class"] for name, row in failures.items()}
        assert {name for name, kind in classes.items() if kind == "worker_died"} == deadly, "no innocent row"
        assert set(classes) == deadly | bad
        assert set(rows_by_id(self.out, "timings")) == good
        records = [json.loads(line) for path in commits(self.out) for line in path.read_text().splitlines()]
        ids = [name for record in records for name in (*record["ids"], *record["failed"])]
        assert sorted(ids) == sorted(good | bad | deadly), "every row in exactly one commit"
        sizes = {part["name"]: part["bytes"] for record in records for part in record["parts"].values()}
        there = {name: entry[2] for name, entry in part_files(self.out).items() if name.endswith(".parquet")}
        assert there == sizes, "every part whole, and no other"
        codes = {record["code"] for record in self.noted("ended")}
        assert codes <= ALLOWED_CODES, "what a failed call ends with tells what to do"
        return {"made": len(good), "quarantined": dict(sorted(Counter(classes.values()).items()))}

    def result(self, command: str) -> dict:
        lost = log_events(self.out, "unit_lost")
        worker, driver = self.noted("worker"), self.noted("driver")
        first, last = (datetime.fromisoformat(self.noted()[at]["time"]) for at in (0, -1))
        return {
            "what": "a job whose workers and driver are killed at random instants",
            "command": command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": {"cpu": cpu_name(), "cores": os.cpu_count()},
            "versions": {"python": platform.python_version(), **{n: version(n) for n in ("ray", "torch", "pyarrow")}},
            "seed": self.seed,
            "rows": len(self.rows),
            "rows_by_kind": dict(Counter(row["id"].split("-")[0] for row in self.rows)),
            "workers": WORKERS,
            "errors": {
                "all": len(errors := self.noted("error")),
                "by_call": dict(sorted(Counter(record["call"] for record in errors).items())),
                "by_errno": dict(sorted(Counter(record["errno"] for record in errors).items())),
            },
            "kills": {"worker": len(worker), "driver": len(driver), "all": len(worker) + len(driver)},
            "killed_workers_were": dict(Counter(record["was"] for record in worker)),
            "killed_workers_in_phase": dict(Counter(record["phase"] for record in worker)),
            "commands_that_ended_by_themselves": dict(Counter(str(r["code"]) for r in self.noted("ended"))),
            "units_lost": len(lost),
            "rows_lost_while_alone": sum(event["rows"] == 1 for event in lost),
            "wall_seconds_with_pauses": round((last - first).total_seconds()),
            "verified": self.verified(),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--errors", type=int, default=0)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    soak = Soak(options.folder.absolute(), options.rows, options.kills, options.errors, options.seed, options.seconds)
    soak.hammer()
    print(f"{soak.killed()} of {soak.kills} kills, {len(soak.noted('error'))} of {soak.errors} errors", flush=True)
    if not soak.enough() or not soak.run_to_end("job", soak.manifest, soak.out, PAUSE / 5):
        return MORE_TO_DO
    if not soak.run_to_end("undisturbed", soak.undisturbed(), soak.folder / "undisturbed", 0.0):
        return MORE_TO_DO
    found = soak.result(" ".join(["python", "tests/soak/hammer.py", *sys.argv[1:]]))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
