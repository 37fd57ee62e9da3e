"""What the checks of `wanbatch doctor` make of facts, which need no machine that has them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from wanbatch.jobs.doctor.check import Check
from wanbatch.jobs.doctor.machine_checks import (
    LimitFacts,
    LocaleFacts,
    MachineFacts,
    SettingsFacts,
    SharedMemoryFacts,
    ZoneFacts,
)
from wanbatch.jobs.doctor.model_checks import CacheFacts, ModelFacts
from wanbatch.jobs.doctor.output_checks import OutputFacts
from wanbatch.jobs.doctor.ray_checks import RayFacts, TempFacts
from wanbatch.jobs.doctor.registry import CHECKS
from wanbatch.jobs.doctor.software_checks import Gpu, GpuFacts, Package, PackageFacts

GB = 1 << 30
JUDGES: dict[type[Any], Check] = {check.facts: check for check in CHECKS}

MACHINE = MachineFacts("Linux x86_64", "3.11.7", 4, 64, 8 * GB, 16 * GB)
LIMITS = LimitFacts(20000, None, "", None)
H100 = Gpu("NVIDIA H100", 80 * GB, 79 * GB, "9.0")
GPU = GpuFacts("2.13", "", "13.0", ["sm_80", "sm_90"], "580.1", True, None, [H100], True, True, "owner/wan")
NO_GPU = replace(GPU, cuda_build="", architectures=[], driver="", driver_there=False, gpus=[], model="tiny")
TEMP = TempFacts("/tmp", "", "", "/tmp", 9 * GB, "")
RAY = RayFacts("2.60.0", "", 5.0, 17, "127.0.0.1", "", False, [])
OUT = OutputFacts("/data/out", "/data", free=100 * GB)
MODEL = ModelFacts("owner/wan", "", "1a2b3c4d5e6f7a8b", "/hub/x", "unipc", (1280, 704), (), False, 50 * GB)
PACKAGES = PackageFacts("0.1.0", [Package("ray>=2.40", "2.60.0", True)], {"s3": True, "bench": False})


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (MACHINE, "4 of 64 cores, 8.0 GB of memory free, limited to 16 GB"),
        (replace(MACHINE, cores_of_machine=4, memory_limit=None), "4 cores, 8.0 GB of memory free"),
        (LIMITS, "20000 open files, any number of more threads"),
        (SharedMemoryFacts(None), "no /dev/shm here"),
        (SharedMemoryFacts(GB), "1.0 GB free in /dev/shm"),
        (LocaleFacts("utf-8", "UTF-8"), "UTF-8"),
        (ZoneFacts(598, ""), "598 time zones"),
        (SettingsFacts([], ""), "defaults"),
        (SettingsFacts(["model", "steps"], ""), "wanbatch.toml and variables set model, steps"),
        (PACKAGES, "wanbatch 0.1.0 with its 1 packages; extras: s3"),
        (GPU, "1 x NVIDIA H100 (80 GB), torch 2.13, driver 580.1"),
        (NO_GPU, "no GPU, torch 2.13: models run on the CPU"),
        (TEMP, "/tmp, 9.0 GB free"),
        (RAY, "Ray 2.60.0 starts in 5 s and listens on 127.0.0.1 alone"),
        (replace(RAY, under_uv=True), "the current folder is not uploaded"),
        (replace(RAY, proxies=["http_proxy"]), "http_proxy do not concern it"),
        (CacheFacts([], ["/hub", "/code"]), "/hub, /code"),
        (MODEL, "owner/wan, 1280x704, unipc, revision 1a2b3c4d5e6f, all weights are here"),
        (OUT, "/data/out: durable writes, renames and the lock work, 100 GB free"),
        (replace(OUT, free=None), "the lease work"),
    ],
)
def test_all_is_well(facts, message):
    found = JUDGES[type(facts)].judge(facts)
    assert (found.level, found.remedy) == ("ok", "")
    assert message in found.message


@pytest.mark.parametrize(
    ("facts", "level", "message", "remedy"),
    [
        (replace(MACHINE, memory=2 * GB), "warning", "may be too little", "give the container"),
        (replace(MACHINE, memory=GB // 2), "fault", "too little for Ray", "at least 3.0 GB"),
        (replace(MACHINE, memory=GB // 2, memory_limit=None), "fault", "too little for Ray", "end other programs"),
        (replace(LIMITS, files=64), "warning", "64 files may be open", "ulimit -n 4096"),
        (
            replace(LIMITS, threads_error="9 more threads: ulimit -u 4096"),
            "fault",
            "9 more threads",
            "ulimit -u 4096",
        ),
        (replace(LIMITS, file_size=1 << 20), "fault", "files may have 1 MB at most", "ulimit -f unlimited"),
        (SharedMemoryFacts(16 << 20), "warning", "16 MB free in /dev/shm, 128 MB are wanted", "--shm-size=256m"),
        (SharedMemoryFacts(GB, "Read-only file system"), "warning", "(Read-only file system)", "remount,rw /dev/shm"),
        (ZoneFacts(0, "No time zone found"), "warning", "this machine has no time zone data", "pip install tzdata"),
        (ZoneFacts(9, "damaged"), "warning", "time zones cannot be read (damaged)", "pip install tzdata"),
        (LocaleFacts("ascii", "ANSI_X3.4-1968"), "warning", "names of files are ascii", "PYTHONUTF8=1"),
        (SettingsFacts([], "wanbatch.toml: unknown field 'stepps'"), "fault", "'stepps'", "mend it"),
        (replace(PACKAGES, packages=[]), "warning", "without being installed", "pip install"),
        (
            replace(PACKAGES, packages=[Package("ray>=2.40", "2.1", False), Package("click>=8", "", False)]),
            "fault",
            "wanted: ray>=2.40 (2.1), click>=8 (not installed)",
            "pip install 'ray>=2.40' 'click>=8'",
        ),
        (replace(GPU, torch="", error="libcudnn.so.9: no such file"), "fault", "libcudnn", "pip install"),
        (replace(GPU, gpus=[], cuda_build=""), "fault", "built without CUDA", "pytorch.org"),
        (replace(GPU, gpus=[], visible=""), "fault", "CUDA_VISIBLE_DEVICES='' hides", "unset CUDA_VISIBLE_DEVICES"),
        (replace(GPU, gpus=[], error="The NVIDIA driver is too old"), "fault", "too old", "update the driver"),
        (replace(GPU, error="CUDA error: initialization"), "fault", "initialization", "--device cpu"),
        (replace(GPU, architectures=["sm_70"]), "fault", "not for 9.0", "pytorch.org"),
        (replace(GPU, triton=False), "fault", "Triton is missing", "pip install triton, or run with --compile never"),
        (replace(GPU, compiler=False), "fault", "a C compiler is missing", "apt-get install gcc"),
        (replace(GPU, gpus=[H100, replace(H100, free=GB)]), "warning", "1.0 GB of 80 GB free", "nvidia-smi"),
        (replace(NO_GPU, model="owner/wan"), "warning", "hours a picture", "--model tiny"),
        (
            TempFacts("/long", "TMPDIR", "is too long", "/tmp", GB, ""),
            "warning",
            "TMPDIR=/long is too long",
            "export TMPDIR=/tmp",
        ),
        (
            TempFacts("/f", "TMPDIR", "is full", "", 0, "no folder for Ray's files: all are full: set TMPDIR"),
            "fault",
            "no folder for Ray's files: all are full",
            "set TMPDIR",
        ),
        (replace(RAY, error="Ray did not start: no ports: run it again"), "fault", "no ports", "run it again"),
        (replace(RAY, ray_address="head:6379"), "warning", "RAY_ADDRESS=head:6379 is not used", "unset RAY_ADDRESS"),
        (CacheFacts([("/hub", "HF_HOME", "Read-only")], ["/hub"]), "warning", "/hub: Read-only", "export HF_HOME="),
        (replace(MODEL, error="it is no Wan"), "fault", "it is no Wan", "another --model"),
        (
            replace(MODEL, missing=("vae/a",)),
            "warning",
            "1 weight files are not in the cache",
            "hf download owner/wan",
        ),
        (
            replace(MODEL, missing=("vae/a",), offline=True),
            "fault",
            "HF_HUB_OFFLINE forbids",
            "HF_HUB_OFFLINE=0 hf download owner/wan --revision 1a2b3c4d5e6f7a8b",
        ),
        (replace(OUT, step="locking it", error="No locks available"), "fault", "locking it fails: No locks", "mount"),
        (
            replace(OUT, out="s3://b", free=None, step="opening it", error="AccessDenied"),
            "fault",
            "AccessDenied",
            "credentials",
        ),
        (replace(OUT, step="opening it", error="ftp: no", user_error=True), "fault", "ftp: no", "another --out"),
        (replace(OUT, foreign=True), "fault", "/data/out holds files that are not of a dataset", "an empty folder"),
        (replace(OUT, left="/data/.x"), "warning", "/data/.x could not be removed", "/data/.x"),
        (
            replace(OUT, holder="a run (pid 1 on host)"),
            "warning",
            "a run (pid 1 on host) writes to it",
            "wait for it",
        ),
        (replace(OUT, free=1 << 20), "fault", "1 MB free", "remove files"),
        (replace(OUT, free=GB), "warning", "1.0 GB free, which about 512 pictures fill", "remove files"),
    ],
)
def test_what_is_not_well_comes_with_a_remedy(facts, level, message, remedy):
    found = JUDGES[type(facts)].judge(facts)
    assert found.level == level
    assert message in found.message
    assert remedy in found.remedy
    assert "\n" not in found.message + found.remedy


@pytest.mark.parametrize(
    ("capability", "built", "fits"),
    [
        ("9.0", ["sm_80", "sm_90"], True),
        ("8.9", ["sm_80"], True),
        ("8.0", ["sm_86"], False),
        ("12.0", ["sm_90", "sm_120"], True),
        ("12.0", ["sm_90"], False),
        ("12.0", ["sm_90", "compute_90"], True),
        ("9.0", ["sm_90a"], True),
        ("9.4", ["gfx942"], True),
    ],
)
def test_a_torch_that_is_built_for_a_gpu(capability, built, fits):
    gpu = replace(H100, capability=capability)
    found = JUDGES[GpuFacts].judge(replace(GPU, gpus=[gpu], architectures=built))
    assert (found.level == "ok") == fits
