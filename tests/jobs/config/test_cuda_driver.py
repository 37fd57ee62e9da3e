"""GPUs as NVIDIA's driver has them, played by an object with the functions of its library."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from wanbatch.jobs.config import cuda_driver
from wanbatch.jobs.config.cuda_driver import gpus_by_driver
from wanbatch.jobs.config.hardware import Hardware

BUILD = {"__version__": "2.13.0+cu130", "cuda": "13.0"}


class Driver:
    """Of a host with these GPUs; `failing`: the function that gives an error."""

    def __init__(self, names=("NVIDIA H200", "NVIDIA H200"), capability=(9, 0), version=13010, failing=""):
        self.names, self.capability, self.version, self.failing = names, capability, version, failing

    def _give(self, function: str, target, value: int) -> int:
        if function == self.failing:
            return 999
        target._obj.value = value
        return 0

    def cuInit(self, flags):
        return 3 if self.failing == "cuInit" else 0

    def cuDriverGetVersion(self, target):
        return self._give("cuDriverGetVersion", target, self.version)

    def cuDeviceGetCount(self, target):
        return self._give("cuDeviceGetCount", target, len(self.names))

    def cuDeviceGet(self, target, ordinal):
        return self._give("cuDeviceGet", target, 40 + ordinal)

    def cuDeviceGetName(self, buffer, size, device):
        assert (size, device.value) == (ctypes.sizeof(buffer), 40)
        buffer.value = self.names[0].encode()
        return 0 if self.failing != "cuDeviceGetName" else 1

    def cuDeviceGetAttribute(self, target, attribute, device):
        assert device.value == 40
        return self._give(
            "cuDeviceGetAttribute", target, dict(zip((75, 76), self.capability, strict=True))[attribute]
        )


@pytest.fixture(autouse=True)
def build(monkeypatch):
    monkeypatch.setattr(cuda_driver, "_torch_build", lambda: BUILD)


def test_the_first_gpu_and_how_many_there_are():
    found = gpus_by_driver(lambda name: Driver(("NVIDIA L40S", "Tesla T4"), (8, 9)))
    assert found == Hardware(2, (8, 9), "NVIDIA L40S", "2.13.0+cu130")


@pytest.mark.parametrize(
    "driver",
    [
        pytest.param(Driver(version=12080), id="older than the build of torch"),
        pytest.param(Driver(names=()), id="no GPU"),
        pytest.param(object(), id="another library of that name"),
        *(
            pytest.param(Driver(failing=name), id=name)
            for name in ("cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName",
                         "cuDeviceGetAttribute")
        ),
    ],
)  # fmt: skip
def test_what_only_torch_can_tell(driver):
    assert gpus_by_driver(lambda name: driver) is None


def test_no_driver(monkeypatch):
    def missing(name: str):
        raise OSError(f"{name}: cannot open shared object file")

    assert gpus_by_driver(missing) is None
    monkeypatch.setattr(cuda_driver, "_torch_build", lambda: BUILD | {"cuda": None})
    assert gpus_by_driver(lambda name: Driver()) is None, "torch is built for CPUs"


def test_the_build_of_torch_is_what_torch_says(monkeypatch):
    import torch

    monkeypatch.undo()
    build = cuda_driver._torch_build()
    assert (build["__version__"], build["cuda"]) == (str(torch.__version__), torch.version.cuda)


def test_a_run_on_gpus_is_prepared_without_torch(tmp_path):
    """By the whole way of a command, in a process of its own, in which nothing imports it."""
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"prompt": "a star"}\n')
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_cuda_driver import BUILD, Driver
from wanbatch.jobs.config import cuda_driver
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.run_context import prepare_run

cuda_driver._torch_build = lambda: BUILD
driver_asked = cuda_driver.gpus_by_driver
cuda_driver.gpus_by_driver = lambda: driver_asked(lambda name: Driver())
context = prepare_run({str(manifest)!r}, {str(tmp_path / "out")!r}, Settings(compile_cache={str(tmp_path)!r}))
print(context.execution.device, context.workers, context.fingerprint["environment"], "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        *("cuda", "2"), "{'torch':", "'2.13.0+cu130',", "'device_name':", "'NVIDIA", "H200'}", "False",
    ]  # fmt: skip
