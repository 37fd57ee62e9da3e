"""Remedies for submissions to a Ray cluster, with a stand-in for its dashboard, a store, and what a job does."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import s3_server
from http_serving import served
from output_folders import publish
from remedy_scenes import At, raised, scene

from wanbatch.errors import MachineryError
from wanbatch.jobs.cluster import job_client
from wanbatch.jobs.cluster.folder_watch import FolderWatch
from wanbatch.jobs.cluster.job_entrypoint import content_of, problem_with_output, problem_with_paths
from wanbatch.jobs.cluster.job_follow import JobEnd, follow
from wanbatch.jobs.cluster.job_state import USAGE, JobState, exit_code_of, missing_interpreter
from wanbatch.jobs.cluster.package import shipped_package
from wanbatch.jobs.cluster.submission import Submission
from wanbatch.jobs.cluster.submit import MAX_ATTEMPTS, latest_attempt
from wanbatch.jobs.driver import ray_session
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.visibility import leave_mark
from wanbatch.manifests.storage.fsspec_io import file_system, forget_file_systems

EMIT = ("--emit", "slurm")
"""Everything is checked and nothing is sent."""

RAY_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_JOB_HEADERS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")


class Dashboard(HTTPServer):
    """Answers as the dashboard of a cluster without jobs. token: that it wants; page: its answer to everything."""

    def __init__(self, token: str = "", page: str = ""):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.token, self.page = token, page
        self.address = f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        if self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}":
            code, answer = (403 if self.headers["Authorization"] else 401), "no"
        elif self.server.page:
            code, answer = 200, self.server.page
        elif self.path == "/api/version":
            code, answer = 200, json.dumps({"version": "4", "ray_version": "2.60.0", "ray_commit": "x"})
        elif self.path == "/api/jobs/":
            code, answer = 200, "[]"
        else:
            code, answer = 404, "no such job"
        self.send_response(code)
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *arguments: object) -> None: ...


def without_ray_variables(at: At) -> None:
    for name in RAY_VARIABLES:
        at.monkeypatch.delenv(name, raising=False)


@scene
def flags_of_what_is_printed(at: At) -> Iterator[str]:
    words = ("submit", at.write("m.jsonl", '{"prompt": "a cup"}\n'), "--out", "s3://shop/out")
    yield at.refused(*words, "--nodes", "4")
    assert "#SBATCH --nodes=4" in at.works(*words, "--nodes", "4", *EMIT)
    at.works(*words, "--nodes", "4", "--emit", "rayjob")
    at.works(*words, *EMIT)
    yield at.refused(*words, *EMIT, "--image", "shop:1")
    at.works(*words, "--emit", "rayjob", "--image", "shop:1")
    yield at.refused(*words, "--emit", "rayjob", "--python", "/x/python")
    at.works(*words, "--emit", "rayjob")
    assert "/x/python" in at.works(*words, *EMIT, "--python", "/x/python")


@scene
def addresses_of_dashboards(at: At) -> Iterator[str]:
    without_ray_variables(at)
    at.rows({"prompt": "x"})
    with served(Dashboard()) as good, served(Dashboard(page="<html>")) as other:
        yield at.refused("jobs", "list", "--address", other.address)
        yield at.refused("jobs", "list", "--address", "auto")
        at.works("jobs", "list", "--address", good.address)
        at.monkeypatch.setattr(job_client, "DEFAULT_ADDRESS", good.address)
        at.works("jobs", "list")
        at.monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        yield at.refused("jobs", "list")
        at.works("jobs", "list", "--address", good.address)
        told = at.refused("jobs", "status", "wanbatch-x-1", "--address", good.address)
        yield told
        listed = shlex.split(re.search(r"`wanbatch (.*?)`", told)[1])  # type: ignore[index]
        at.works(*listed, "--address", good.address)

        jobs = job_client.ClusterJobs(good.address)
        good.page = "<html>sign in</html>"
        yield raised(lambda: jobs.state("wanbatch-x-1"))
        good.page = ""
        assert jobs.state("wanbatch-x-1") is None

        def interrupted(*given: object, **more: object) -> None:
            raise KeyboardInterrupt

        at.monkeypatch.setattr("wanbatch.jobs.cluster.submit.submit", interrupted)
        told = at.refused("submit", "m.jsonl", "--address", good.address, code=130)
        yield told
        at.works(*shlex.split(re.search(r"`wanbatch (.*?)`", told)[1]))  # type: ignore[index]


@scene
def tokens_of_clusters(at: At) -> Iterator[str]:
    without_ray_variables(at)
    at.monkeypatch.setenv("HOME", str(at.folder))
    given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "1" * 64}
    at.write("token", "1" * 64)
    in_file = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(at.folder / "token")}
    with served(Dashboard(token="1" * 64)) as server:
        try:
            at.write("stale", "2" * 64)
            without = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(at.folder / "gone")}
            stale = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(at.folder / "stale")}
            for variables in ({}, {**given, "RAY_AUTH_TOKEN": "2" * 64}, stale, without):
                yield _with(at, variables, lambda: at.refused("jobs", "list", "--address", server.address))
            for variables in (given, in_file):
                _with(at, variables, lambda: at.works("jobs", "list", "--address", server.address))
        finally:
            ray_session._reread_token()


def _with(at: At, variables: dict[str, str], call):
    """Call with variables of the environment, which Ray is made to look at again."""
    with at.monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        ray_session._reread_token()
        return call()


@scene
def what_is_submitted(at: At) -> Iterator[str]:
    at.rows({"prompt": "x"})
    at.monkeypatch.delenv("UNSET", raising=False)
    wrong: dict[tuple[str, ...], list[tuple[str, ...]]] = {
        ("m.jsonl", "--out", "m.jsonl"): [("m.jsonl", "--out", "out")],
        ("n.jsonl",): [("m.jsonl",), ("/shared/n.jsonl",)],
        ("m.jsonl", "--env", "a-b"): [("m.jsonl", "--env", "A=b"), ("m.jsonl", "--env", "HOME")],
        ("m.jsonl", "--env", "RAY_AUTH_TOKEN"): [("m.jsonl",)],
        ("m.jsonl", "--env", "WANBATCH_STEPS=3"): [("m.jsonl", "--steps", "3")],
        ("m.jsonl", "--env", "UNSET"): [("m.jsonl", "--env", "UNSET=x")],
        ("m.jsonl", "--upload", "folder"): [],  # into a store: below
        ("/shared/n.jsonl", "--upload", "s3://shop/up"): [("/shared/n.jsonl",)],
        ("m.jsonl", "--source-fence", "none"): [("m.jsonl", "--source-fence", ".")],
        ("m.jsonl", "--source-root", "m.jsonl"): [("m.jsonl", "--source-root", ".")],
    }
    for words, ways in wrong.items():
        yield at.refused("submit", *words, *EMIT)
        for way in ways:
            works = at.works_with_warnings if way[0].startswith("/shared") else at.works
            works("submit", *way, *EMIT)
    at.works_with_warnings("submit", "m.jsonl", "--source-fence", "/shared/pictures", *EMIT)
    at.monkeypatch.setenv("UNSET", "x")
    at.works("submit", "m.jsonl", "--env", "UNSET", *EMIT)


@scene
def what_is_uploaded(at: At) -> Iterator[str]:
    """To a store that is there."""
    with s3_server.running() as server:
        for name, value in {**s3_server.ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
            at.monkeypatch.setenv(name, value)
        forget_file_systems()
        file_system("s3://shop").makedirs("shop", exist_ok=True)
        upload = ("--upload", "s3://shop/up", *EMIT)
        at.rows({"image": "../a.png"}, name="rows/m.jsonl")
        yield at.refused("submit", "rows/m.jsonl", "--source-fence", ".", *upload)
        at.rows({"image": "a.png"}, name="rows/m.jsonl")
        at.works("submit", "rows/m.jsonl", "--source-root", ".", *upload)
        with OutputFolder.open(at.folder / "out", {}) as folder:
            publish(folder, 0, ["a"])
        yield at.refused("submit", "out", *upload)
        file_system("s3://shop").put(str(at.folder / "out"), "s3://shop/first", recursive=True)
        at.works("submit", "s3://shop/first", *EMIT)
    forget_file_systems()


@scene
def what_a_job_does_not_see(at: At) -> Iterator[str]:
    path = at.write("m.jsonl", '{"prompt": "a"}\n')
    yield str(problem_with_paths({"contents": {f"{at.folder}/n.jsonl": None}}, "node7"))
    yield str(problem_with_paths({"contents": {str(path): "another"}}, "node7"))
    assert problem_with_paths({"contents": {str(path): content_of(str(path))}}, "node7") is None
    for name in ("here", "there"):
        (at.folder / name / "_wanbatch/tmp").mkdir(parents=True)
    mark = leave_mark(at.folder / "here", "laptop")
    expected = {"out": str(at.folder / "there"), "mark": mark, "host": "laptop", "patience": 0.0}
    yield str(problem_with_output(expected, "node7"))
    assert problem_with_output({**expected, "out": str(at.folder / "here")}, "node7") is None


@scene
def interpreters_of_jobs(at: At) -> Iterator[str]:
    """As the shell of a cluster starts them: one that is there finds that the manifest is not."""
    asked = Submission("/nowhere/m.jsonl", str(at.folder / "out"))
    at.write("no program", "nothing")
    for python in ("pythons", "/no where/python", str(at.folder / "no program")):
        command = asked.entrypoint(python, {"contents": {"/nowhere/m.jsonl": None}})
        code = subprocess.run(["sh", "-c", command], cwd=at.folder, capture_output=True).returncode
        found = missing_interpreter("FAILED", code, "", command)
        assert (found, exit_code_of("FAILED", code, "")) == (python, USAGE)
        yield str(JobEnd(JobState("j", "FAILED", exit_code=USAGE, interpreter=found), None).explanation)
    command = asked.entrypoint(sys.executable, {"contents": {"/nowhere/m.jsonl": None}})
    done = subprocess.run(["sh", "-c", command], cwd=at.folder, capture_output=True, text=True)
    assert done.returncode == USAGE
    assert missing_interpreter("FAILED", done.returncode, "", command) is None
    yield done.stderr


@scene
def packages_for_clusters(at: At) -> Iterator[str]:
    at.monkeypatch.setenv("XDG_CACHE_HOME", str(at.folder / "a.png/cache"))
    yield raised(shipped_package)
    at.monkeypatch.setenv("XDG_CACHE_HOME", str(at.folder / "cache"))
    assert (shipped_package() / "__init__.py").exists()


class Jobs:
    """The jobs of a cluster. states: what it answers, one after the other; the last for ever; an error is raised."""

    def __init__(self, *states: JobState | MachineryError | None):
        self._states = list(states)

    def state(self, submission_id: str) -> JobState | None:
        found = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        if isinstance(found, MachineryError):
            raise found
        return found


@scene
def clusters_that_forget_and_are_silent(at: At) -> Iterator[str]:
    """The same again attaches to a job, or goes on under the next number."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def followed(jobs: Jobs) -> JobEnd:
        return follow(jobs, "j", FolderWatch(None), lambda *given: None, str, lambda: now[0], sleep)  # type: ignore

    running, done = JobState("j", "RUNNING"), JobState("j", "SUCCEEDED", exit_code=0)
    yield raised(lambda: followed(Jobs(running, MachineryError("head: does not answer."))))
    assert followed(Jobs(running, done)).exit_code == 0
    yield raised(lambda: followed(Jobs(running, None)))
    asked = Submission("s3://shop/m.jsonl", "s3://shop/out")
    assert latest_attempt(asked, Jobs(None)) == (0, None)
    yield raised(lambda: latest_attempt(asked, Jobs(done)))
    assert MAX_ATTEMPTS > 2
    assert latest_attempt(Submission("s3://shop/m.jsonl", "s3://shop/other"), Jobs(None)) == (0, None)
