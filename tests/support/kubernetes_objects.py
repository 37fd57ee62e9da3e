"""What Kubernetes and KubeRay would say of an object that wanbatch writes: fields, types, and values that have rules.

Kubernetes' own schemas, which kubernetes-validate brings, refuse unknown fields, wrong types and missing fields, but
take any text where only some are allowed; those are written down here. What a RayJob has of KubeRay is in
`tests/data/kuberay/rayjob-v1.schema.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

VERSIONS = ("1.30", "1.37")
"""The first whose schema takes a CronJob's rules about exit codes alone, and the newest one."""
RAYJOB = json.loads((Path(__file__).parents[1] / "data/kuberay/rayjob-v1.schema.json").read_text())

_QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGTPE]i?|k)?$"}
VALUES = {
    "restartPolicy": {"enum": ["Always", "OnFailure", "Never"]},
    "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "concurrencyPolicy": {"enum": ["Allow", "Forbid", "Replace"]},
    "medium": {"enum": ["", "Memory"]},
    "sizeLimit": _QUANTITY,
    "limits": {"additionalProperties": _QUANTITY},
    "requests": {"additionalProperties": _QUANTITY},
    "containers": {"minItems": 1, "items": {"properties": {"name": {"pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}}}},
}
"""By the name of the field, as the reference of Kubernetes' API has it."""


def check_object(content: dict[str, Any]) -> None:
    """Check a RayJob of KubeRay, or an object of Kubernetes.

    Raises:
        jsonschema.ValidationError: KubeRay or Kubernetes would refuse it.
    """
    if not content["apiVersion"].startswith("ray.io/"):
        _check_by_kubernetes(content)
        return
    jsonschema.validate(content, RAYJOB)
    cluster = content["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        _check_pod(group["template"])
    for group in cluster["workerGroupSpecs"]:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            raise jsonschema.ValidationError("replicas are not between minReplicas and maxReplicas")


def _check_pod(template: dict[str, Any]) -> None:
    _check_by_kubernetes({"apiVersion": "v1", "kind": "PodTemplate", "template": template})
    volumes = {volume["name"] for volume in template["spec"].get("volumes", ())}
    for container in template["spec"]["containers"]:
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                raise jsonschema.ValidationError(f"there is no volume {mount['name']}")
        sizes = container.get("resources", {})
        own = [{name: size for name, size in part.items() if "/" in name} for part in sizes.values()]
        if any(part != own[0] for part in own):
            raise jsonschema.ValidationError("requests of a device must be its limits")


def _check_by_kubernetes(content: dict[str, Any]) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(content, version, strict=True)
    for name, value in _fields(content):
        if name in VALUES:
            jsonschema.validate(value, VALUES[name])


def _fields(content: Any) -> Iterator[tuple[str, Any]]:
    """The fields of an object and of all objects in it, with their names."""
    if isinstance(content, dict):
        yield from content.items()
    for part in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _fields(part)
