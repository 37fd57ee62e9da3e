"""A model of the hub on a host with several workers: real processes, a server that answers as the hub does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import COMMITS, HubServer
from hub_server import hub as hub_of

from wanbatch.pipeline.loading import registry

NAME = "owner/small"
TINY = Path(registry.find().folder)
WORKER = """
import sys
from dataclasses import replace
from wanbatch.jobs.worker.model_files import local_model
from wanbatch.pipeline.loading import registry

name, commit, before = sys.argv[1:]
if before:
    import huggingface_hub  # as a process that has imported the client reads its variables no more
model = replace(registry.find(), name=name, revision=commit, folder="/of/the/driver")
print(local_model(model, None).folder, flush=True)
sys.stdin.readline()
from huggingface_hub import HfApi, hf_hub_download
for ask in (lambda: HfApi().model_info(name), lambda: hf_hub_download(name, "README.md", revision=commit)):
    try:
        ask()
    except Exception as error:
        print(type(error).__name__, flush=True)
"""


@pytest.fixture
def hub(tmp_path) -> Iterator[HubServer]:
    """Has the model, and what else is in a repository and no worker needs."""
    repository = Path(shutil.copytree(TINY, tmp_path / "repository"))
    (repository / "README.md").write_text("# A model\n")
    with hub_of(NAME, repository) as server:
        server.kind = "models"
        yield server


@pytest.fixture
def workers(hub, tmp_path) -> Callable[[int], tuple[set[str], list[list[str]]]]:
    """Start so many workers at once on one host, and end them; every second one has imported the hub's client before.

    Returns the folders that they found, and which errors each had that asked the hub for more afterwards.
    """
    host = tmp_path / "host"
    host.mkdir()
    mine = {"HOME": str(host), "HF_HOME": str(host / "hf"), "TMPDIR": str(host), "HF_ENDPOINT": hub.url}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}

    def start(count: int) -> tuple[set[str], list[list[str]]]:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, NAME, COMMITS[0], "before" * (number % 2)],
                env=environment | mine,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]
        folders = set()
        for process in processes:
            assert process.stdout is not None
            folders.add(process.stdout.readline().strip())
        seen = list(hub.seen)
        told = [process.communicate("go on\n", timeout=120)[0].split() for process in processes]
        assert hub.seen == seen, "nobody asked it afterwards"
        return folders, told

    return start


def test_workers_of_one_host_fetch_once_and_ask_no_more(hub, workers):
    [folder], told = workers(3)
    assert registry.find(folder).digest == registry.find().digest
    assert told == [["OfflineModeIsEnabled", "LocalEntryNotFoundError"]] * 3
    fetched = Counter(path.split("/", 5)[-1] for method, path in hub.seen if method == "GET" and "/resolve/" in path)
    needed = [path.relative_to(TINY) for path in TINY.rglob("*") if path.suffix in (".json", ".safetensors")]
    assert fetched == Counter(map(str, needed)), "each file once"
    hub.seen.clear()
    [again], _ = workers(2)
    assert (again, hub.seen) == (folder, []), "whoever comes later finds all there, and says nothing to the hub"
