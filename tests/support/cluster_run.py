"""Run by test_nodes.py: a run on a cluster of several nodes of this host, one of which is lost.

    python cluster_run.py MANIFEST OUT

A node with workers on it is killed once two units are committed, and another one joins. Prints what happened as
JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fake_pipelines
import psutil
import ray
from job_making import commits
from progress_hooks import SMALL, ProgressHook
from ray.cluster_utils import Cluster

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.run import run

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


def main(manifest: Path, out: Path) -> None:
    ray.cloudpickle.register_pickle_by_value(fake_pipelines)
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    nodes = [cluster.add_node(**NODE) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    killed: list[int] = []

    def lose_a_node() -> None:
        if killed or len(commits(out)) < 2:
            return
        for node in nodes:
            if count := at_work_on(node):
                cluster.remove_node(node, allow_graceful=False)
                killed.append(count)
                cluster.add_node(**NODE)
                return

    settings = Settings(**SMALL, unit_rows=1, workers=4)
    summary = run(manifest, out, settings, lambda n, done: ProgressHook(n, done, lose_a_node), fake_pipelines.load)
    print(json.dumps({"code": summary.exit_code, "made": summary.made, "workers_killed": sum(killed)}))
    ray.shutdown()
    cluster.shutdown()


def at_work_on(node) -> int:
    """How many workers of a node are at work on a unit."""
    [raylet] = node.all_processes["raylet"]
    children = psutil.Process(raylet.process.pid).children(recursive=True)
    return sum("ray::Worker.exchange" in " ".join(child.cmdline()) for child in children)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
