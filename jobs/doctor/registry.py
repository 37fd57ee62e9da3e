"""All checks of `wanbatch doctor`, in the order in which it shows them."""

from __future__ import annotations

from wanbatch.jobs.doctor import machine_checks as machine
from wanbatch.jobs.doctor import model_checks as models
from wanbatch.jobs.doctor import output_checks as output
from wanbatch.jobs.doctor import ray_checks as rays
from wanbatch.jobs.doctor import software_checks as software
from wanbatch.jobs.doctor.check import Check

CHECKS = (
    Check("machine", machine.MachineFacts, machine.look_at_machine, machine.judge_machine),
    Check("limits", machine.LimitFacts, machine.look_at_limits, machine.judge_limits),
    Check("locale", machine.LocaleFacts, machine.look_at_locale, machine.judge_locale),
    Check("zones", machine.ZoneFacts, machine.look_at_zones, machine.judge_zones),
    Check("packages", software.PackageFacts, software.look_at_packages, software.judge_packages),
    Check("settings", machine.SettingsFacts, machine.look_at_settings, machine.judge_settings),
    Check("gpu", software.GpuFacts, software.look_at_gpus, software.judge_gpus, seconds=120,
          hung="a driver or GPU hangs: `nvidia-smi` may say which; restart the machine"),
    Check("temp", rays.TempFacts, rays.look_at_temp, rays.judge_temp,
          hung="TMPDIR may be on a disk that does not answer: export TMPDIR=/tmp"),
    Check("shm", machine.SharedMemoryFacts, machine.look_at_shared_memory, machine.judge_shared_memory),
    Check("ray", rays.RayFacts, rays.start_ray, rays.judge_ray, seconds=180,
          hung="let no firewall block 127.0.0.1, end programs that use the processor, and try again"),
    Check("caches", models.CacheFacts, models.look_at_caches, models.judge_caches,
          hung="the home folder may be on a disk that does not answer: export HF_HOME and XDG_CACHE_HOME elsewhere"),
    Check("model", models.ModelFacts, models.look_at_model, models.judge_model, seconds=120,
          hung="the hub or the model's disk does not answer: check the network, or HF_HUB_OFFLINE=1 if it is cached"),
    Check("output", output.OutputFacts, output.try_output, output.judge_output, seconds=120,
          hung="the disk or the store does not answer: check its mount or its address",
          asked=lambda question: question.out is not None),
)  # fmt: skip
