"""A RayJob has the fields and values that KubeRay and Kubernetes take, and the checks of it refuse any other."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes_objects import RAYJOB, check_object

from wanbatch.jobs.cluster.rayjob import rayjob, rayjob_yaml
from wanbatch.jobs.cluster.submission import Submission

SUBMISSION = Submission(
    "s3://b/m.jsonl", "s3://b/out", ("--prompt", 'a "cup"; $(x)\nnext'), variables={"AWS_REGION": "eu west"}
)


def test_a_rayjob_has_only_fields_that_kuberay_knows():
    text = rayjob_yaml(SUBMISSION, "registry/wanbatch:1", "2.60.0", nodes=4, gpus_per_node=1)
    content = yaml.safe_load(text)
    jsonschema.Draft202012Validator.check_schema(RAYJOB)
    check_object(content)
    assert content == rayjob(SUBMISSION, "registry/wanbatch:1", "2.60.0", 4, 1)
    assert "&id" not in text
    cluster = content["spec"]["rayClusterSpec"]
    [head] = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    [workers] = cluster["workerGroupSpecs"]
    [worker] = workers["template"]["spec"]["containers"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (4, 1, 4)
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert worker["env"] == [{"name": "AWS_REGION", "value": "eu west"}]


def changed(where: str, value: Any = None) -> Callable[[dict[str, Any]], None]:
    """Sets the field at a path, such as `spec.workers.0.name`, or takes it away."""

    def change(content: dict[str, Any]) -> None:
        *path, last = [int(part) if part.isdigit() else part for part in where.split(".")]
        for part in path:
            content = content[part]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return change


CLUSTER, WORKERS = "spec.rayClusterSpec", "spec.rayClusterSpec.workerGroupSpecs.0"
POD = f"{CLUSTER}.headGroupSpec.template.spec"
CONTAINER = f"{WORKERS}.template.spec.containers.0"


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        ("spec.entryPoint", "x", "'entryPoint' was unexpected"),
        (f"{CLUSTER}.autoscaling", True, "'autoscaling' was unexpected"),
        (f"{CLUSTER}.headGroupSpec.replicas", 1, "'replicas' was unexpected"),
        (f"{WORKERS}.name", "w", "'name' was unexpected"),
        ("metadata.namespce", "x", "'namespce' was unexpected"),
        (f"{POD}.container", [], "'container' was unexpected"),
        (f"{POD}.volumes.0.emptyDir.sizelimit", "1Gi", "'sizelimit' was unexpected"),
        (f"{CONTAINER}.envFrom.0.secretRef.nam", "s", "'nam' was unexpected"),
        (f"{CONTAINER}.resources.limit", {}, "'limit' was unexpected"),
        ("spec.backoffLimit", "3", "'3' is not of type 'integer'"),
        (f"{CLUSTER}.enableInTreeAutoscaling", "no", "'no' is not of type 'boolean'"),
        (f"{CLUSTER}.headGroupSpec.rayStartParams.num-cpus", 0, "0 is not of type 'string'"),
        (f"{WORKERS}.maxReplicas", 2**31, "greater than the maximum"),
        (f"{CONTAINER}.image", 3, "3 is not of type 'string'"),
        (f"{CONTAINER}.env.0.value", 1, "1 is not of type 'string'"),
        (f"{CONTAINER}.command", "sh", "'sh' is not of type 'array'"),
        (f"{CONTAINER}.resources.limits.memory", "64 GB", "'64 GB' does not match"),
        ("spec.rayClusterSpec", None, "'rayClusterSpec' is a required property"),
        ("metadata.name", None, "'name' is a required property"),
        (f"{CLUSTER}.headGroupSpec", None, "'headGroupSpec' is a required property"),
        (f"{CLUSTER}.headGroupSpec.rayStartParams", None, "'rayStartParams' is a required property"),
        (f"{WORKERS}.minReplicas", None, "'minReplicas' is a required property"),
        (f"{WORKERS}.template", None, "'template' is a required property"),
        (f"{POD}.containers", None, "'containers' is a required property"),
        (f"{CONTAINER}.name", None, "'name' is a required property"),
        (f"{CONTAINER}.volumeMounts.0.mountPath", None, "'mountPath' is a required property"),
        ("kind", "RayCluster", "'RayJob' was expected"),
        ("apiVersion", "ray.io/v1alpha1", "'ray.io/v1' was expected"),
        ("spec.submissionMode", "HttpMode", "'HttpMode' is not one of"),
        (f"{POD}.restartPolicy", "Sometimes", "'Sometimes' is not one of"),
        (f"{POD}.volumes.0.emptyDir.medium", "RAM", "'RAM' is not one of"),
        (f"{CONTAINER}.imagePullPolicy", "Sometimes", "'Sometimes' is not one of"),
        ("metadata.name", "wanbatch_1", "'wanbatch_1' does not match"),
        ("metadata.name", "w" * 48, "is too long"),
        ("spec.ttlSecondsAfterFinished", -1, "-1 is less than the minimum"),
        ("spec.shutdownAfterJobFinishes", False, "True was expected"),
        ("spec.submissionMode", "InteractiveMode", "0 was expected"),
        (f"{CLUSTER}.headGroupSpec.rayStartParams.labels", "a=b", "'labels' should not be valid"),
        (f"{WORKERS}.minReplicas", 9, "are not between"),
        (f"{CONTAINER}.volumeMounts.0.name", "other", "there is no volume other"),
        (f"{CONTAINER}.resources.requests", {"nvidia.com/gpu": "2"}, "must be its limits"),
    ],
)  # fmt: skip
def test_the_checks_refuse_what_kuberay_or_kubernetes_would(where, value, told):
    content = copy.deepcopy(rayjob(SUBMISSION, "i", "2.60.0", 1, 8))
    changed(where, value)(content)
    with pytest.raises(jsonschema.ValidationError, match=re.escape(told)):
        check_object(content)
