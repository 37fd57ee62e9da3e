"""`wanbatch submit --emit rayjob`: a manifest as a RayJob of KubeRay, which starts a cluster for it and ends it."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from wanbatch import __version__
from wanbatch.jobs.cluster.job_state import HELD, QUARANTINED
from wanbatch.jobs.cluster.submission import Submission

API_VERSION = "ray.io/v1"
SECRET = "wanbatch-secrets"
"""Of the same namespace, with what the pods need to reach the store; it may be absent."""
RETRIES, KEPT_SECONDS = 3, 600
HELD_PAUSES = (60, 60, 60, 0)
"""Seconds after each try that finds the output folder held: in a store, a driver whose machine is gone holds it for
150 s more, which would use up the retries."""

HEAD = {"cpu": "2", "memory": "8Gi"}
WORKER = {"cpu": "8", "memory": "64Gi"}
SHARED_MEMORY = "8Gi"

_COMMENT = """\
# Written by `wanbatch submit --emit rayjob`, wanbatch {version}, for KubeRay 1.4 to 1.7. Start it with
# `kubectl create -f FILE`; `kubectl replace --force -f FILE` goes on with what is left. Sizes of pods, node selectors
# and tolerations (of spot nodes, too) are your cluster's. Credentials come from the secret {secret}, if there
# is one. A run that ends with quarantined rows (exit code 3) is a success here; `wanbatch status OUT` shows them.
"""


class _PlainDumper(yaml.SafeDumper):
    """Writes what is there twice twice, instead of a reference to the first."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def rayjob_yaml(submission: Submission, image: str, ray_version: str, nodes: int, gpus_per_node: int) -> str:
    """Return the manifest for `kubectl create`.

    Args:
        submission: what is asked.
        image: with wanbatch and all it needs, as the Dockerfile makes it.
        ray_version: of that image.
        nodes: workers' pods, at most; the run starts with the first one.
        gpus_per_node: 0: it is run on CPUs.
    """
    comment = _COMMENT.format(version=__version__, secret=SECRET)
    content = rayjob(submission, image, ray_version, nodes, gpus_per_node)
    return comment + yaml.dump(content, Dumper=_PlainDumper, sort_keys=False, width=1_000_000)


def rayjob(submission: Submission, image: str, ray_version: str, nodes: int, gpus_per_node: int) -> dict[str, Any]:
    """Return the RayJob as an object. Arguments as of `rayjob_yaml`."""
    environment = [{"name": name, "value": value} for name, value in submission.variables.items()]
    gpus = {"nvidia.com/gpu": str(gpus_per_node)} if gpus_per_node else {}
    return {
        "apiVersion": API_VERSION,
        "kind": "RayJob",
        "metadata": {"name": f"wanbatch-{submission.digest}"},
        "spec": {
            "entrypoint": _entrypoint(submission),
            "runtimeEnvYAML": yaml.safe_dump(
                {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(submission.stop_seconds)}}, sort_keys=False
            ),
            "submissionMode": "HTTPMode",
            "metadata": submission.metadata,
            "backoffLimit": RETRIES,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "rayClusterSpec": {
                "rayVersion": ray_version,
                "headGroupSpec": {
                    "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0", "num-gpus": "0"},
                    "template": _pod("ray-head", image, HEAD, environment),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": nodes,
                        "minReplicas": min(1, nodes),
                        "maxReplicas": nodes,
                        "rayStartParams": {},
                        "template": _pod("ray-worker", image, WORKER | gpus, environment),
                    }
                ],
            },
        },
    }


def _entrypoint(submission: Submission) -> str:
    """The job's command; Kubernetes knows only success and failure, and would start a failed one again."""
    command = shlex.join(("wanbatch", *submission.command, *submission.on_this_cluster))
    pauses = " ".join(map(str, HELD_PAUSES))
    return (
        f'for pause in {pauses}; do {command}; code=$?; [ "$code" -eq {HELD} ] || break; sleep "$pause"; done; '
        f'[ "$code" -eq {QUARANTINED} ] || exit "$code"'
    )


def _pod(name: str, image: str, size: dict[str, str], environment: list[dict[str, str]]) -> dict[str, Any]:
    container = {
        "name": name,
        "image": image,
        "env": environment,
        "envFrom": [{"secretRef": {"name": SECRET, "optional": True}}],
        "resources": {"requests": size, "limits": size},
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
    }
    memory = {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY}}
    return {"spec": {"containers": [container], "volumes": [memory]}}
