"""RayJobs by KubeRay's own definitions, where they were fetched; and what fetches them, and what checks by them."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from crd_schema import check_by_definition
from free_ports import free_port
from kuberay_crd import definitions
from kubernetes_objects import check_object
from web_server import serving

from wanbatch.jobs.cluster.rayjob import rayjob_yaml
from wanbatch.jobs.cluster.submission import Submission

SCRIPT = Path(__file__).parents[2] / "support/kuberay_crd.py"
NONE_FETCHED = "KubeRay's CRD is not here: `make kuberay-crd` fetches it, where GitHub can be reached"
FETCHED = definitions()
SUBMISSION = Submission("s3://b/m.jsonl", "s3://b/out", ("--steps", "4"), variables={"AWS_REGION": "eu west"})

DEFINITION = yaml.safe_load("""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: rayjobs.ray.io}
spec:
  group: ray.io
  names: {kind: RayJob, plural: rayjobs}
  scope: Namespaced
  versions:
  - name: v1alpha1
    served: false
    storage: false
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          apiVersion: {type: string}
          kind: {type: string}
          metadata: {type: object}
          spec:
            type: object
            required: [entrypoint, mode]
            properties:
              entrypoint: {type: string, minLength: 1}
              mode: {type: string, default: HTTPMode, enum: [HTTPMode, SidecarMode]}
              backoffLimit: {type: integer, format: int32, minimum: 0}
              share: {type: number, minimum: 0, exclusiveMinimum: true, maximum: 1}
              suspend: {type: boolean, nullable: true}
              params: {type: object, additionalProperties: {type: string}}
              options: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {deep: {type: object}}}
              anything: {x-kubernetes-preserve-unknown-fields: true}
              nothing: {type: object}
              size:
                anyOf: [{type: integer}, {type: string}]
                pattern: "^[0-9]+(Mi|Gi)?$"
                x-kubernetes-int-or-string: true
              hosts: {type: array, items: {type: string}, x-kubernetes-list-type: set}
              ports:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [number, protocol]
                items:
                  type: object
                  required: [number]
                  properties: {number: {type: integer}, protocol: {type: string, default: TCP}}
              template:
                type: object
                x-kubernetes-embedded-resource: true
                properties: {spec: {type: object, properties: {cpu: {type: integer}}}}
              one:
                type: object
                properties: {a: {type: string}, b: {type: string}}
                oneOf: [{required: [a]}, {required: [b]}]
""")
RIGHT: dict[str, Any] = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "wanbatch-1"},
    "spec": {"entrypoint": "wanbatch run"},
}


def with_spec(**fields: Any) -> dict[str, Any]:
    """The right object with other fields in its `spec`."""
    content = copy.deepcopy(RIGHT)
    content["spec"] |= fields
    return content


@pytest.mark.parametrize(
    "content",
    [
        RIGHT,
        with_spec(mode="SidecarMode", backoffLimit=3, share=1, suspend=None, params={"num-cpus": "0"}),
        with_spec(options={"own": {"deeper": [1]}, "deep": {}}, anything=[{"x": 1}], nothing={}),
        with_spec(size=8),
        with_spec(size="8Gi", hosts=["a", "b"]),
        with_spec(ports=[{"number": 1}, {"number": 1, "protocol": "UDP"}, {"number": 2}]),
        with_spec(template={"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"cpu": 1}}),
        with_spec(one={"b": "x"}),
    ],
)
def test_an_object_that_its_definition_allows(content):
    check_by_definition(content, DEFINITION)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({**RIGHT, "kind": "RayCluster"}, "is no RayJob"),
        ({**RIGHT, "apiVersion": "ray.io/v1alpha1"}, "is no RayJob of ray.io/v1"),
        ({**RIGHT, "status": {}}, "'status' was unexpected"),
        ({name: RIGHT[name] for name in ("apiVersion", "kind", "metadata")}, "'spec' is a required property"),
        (with_spec(entryPoint="x"), "'entryPoint' was unexpected"),
        ({**RIGHT, "spec": {"mode": "HTTPMode"}}, "'entrypoint' is a required property"),
        (with_spec(entrypoint=""), "should be non-empty"),
        (with_spec(entrypoint=None), "None is not of type 'string'"),
        (with_spec(mode="HttpMode"), "'HttpMode' is not one of"),
        (with_spec(backoffLimit="3"), "'3' is not of type 'integer'"),
        (with_spec(backoffLimit=-1), "-1 is less than the minimum of 0"),
        (with_spec(backoffLimit=2**31), "greater than the maximum of 2147483647"),
        (with_spec(share=0), "0 is less than or equal to the minimum"),
        (with_spec(share=1.5), "1.5 is greater than the maximum"),
        (with_spec(suspend="no"), "not valid under any of the given schemas"),
        (with_spec(params={"num-cpus": 0}), "0 is not of type 'string'"),
        (with_spec(options={"deep": {"x": 1}}), "'x' was unexpected"),
        (with_spec(nothing={"x": 1}), "'x' was unexpected"),
        (with_spec(size=1.5), "1.5 is not"),
        (with_spec(size="8 GB"), "'8 GB' does not match"),
        (with_spec(hosts=["a", "a"]), "non-unique"),
        (with_spec(ports=[{"number": 1}, {"number": 1, "protocol": "TCP"}]), "two items with [1, 'TCP']"),
        (with_spec(ports=[{"protocol": "TCP"}]), "'number' is a required property"),
        (with_spec(template={"spec": {"memory": 1}}), "'memory' was unexpected"),
        (with_spec(template={"labels": {}}), "'labels' was unexpected"),
        (with_spec(one={"a": "x", "b": "x"}), "valid under each of"),
        (with_spec(one={"a": "x", "c": "x"}), "'c' was unexpected"),
    ],
)
def test_an_object_that_its_definition_does_not_allow(content, told):
    with pytest.raises(jsonschema.ValidationError) as caught:
        check_by_definition(content, DEFINITION)
    assert told in caught.value.message


NO_DEFINITION = pytest.param("", marks=pytest.mark.skip(reason=NONE_FETCHED))


@pytest.mark.parametrize("version", sorted(FETCHED) or [NO_DEFINITION])
@pytest.mark.parametrize(("nodes", "gpus"), [(1, 0), (4, 1), (16, 8)])
def test_what_is_emitted_is_what_kuberay_defines(version, nodes, gpus):
    content = yaml.safe_load(rayjob_yaml(SUBMISSION, "registry/wanbatch:1", "2.60.0", nodes, gpus))
    check_by_definition(content, FETCHED[version])
    check_object(content)


@pytest.fixture
def releases() -> Iterator[Any]:
    """A server that has one release."""
    with serving() as server:
        path = "/v1.4.0/ray-operator/config/crd/bases/ray.io_rayjobs.yaml"
        server.answers[path] = lambda handler: handler.give(200, yaml.safe_dump(DEFINITION).encode())
        for version, body in (("1.5.0", b"<html>sign in</html>"), ("1.6.0", b"a: [")):
            server.answers[path.replace("1.4.0", version)] = lambda handler, body=body: handler.give(200, body)
        server.answers[path.replace("1.4.0", "9.9.9")] = lambda handler: handler.give(404)
        yield server


def fetched(folder: Path, url: str, *versions: str) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    command = [sys.executable, SCRIPT, *versions, "--releases", url, "--folder", folder]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)


def test_a_definition_is_kept_with_its_version(releases, tmp_path):
    done = fetched(tmp_path, releases.url, "v1.4.0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "ray.io_rayjobs-1.4.0.yaml")
    assert definitions(tmp_path) == {"1.4.0": DEFINITION}
    first = (tmp_path / "ray.io_rayjobs-1.4.0.yaml").read_text().splitlines()[0]
    assert first.startswith(f"# KubeRay 1.4.0, {releases.url}/v1.4.0/")


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("9.9.9", "the server answers 404: is 9.9.9 a release of KubeRay?"),
        ("1.5.0", "what answers there is no CustomResourceDefinition of RayJobs"),
        ("1.6.0", "what answers there is no CustomResourceDefinition of RayJobs"),
    ],
)
def test_what_is_no_definition_is_not_kept(releases, tmp_path, version, told):
    done = fetched(tmp_path, releases.url, version)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert told in line
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_there_is_one_message(tmp_path):
    done = fetched(tmp_path, f"http://127.0.0.1:{free_port()}", "1.4.0")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "cannot be reached from this machine" in line
    assert f"put it into {tmp_path / 'ray.io_rayjobs-1.4.0.yaml'}" in line
