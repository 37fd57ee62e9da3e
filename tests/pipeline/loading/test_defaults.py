"""What a model's folder says of its own noise levels, sampler and schedule."""

from __future__ import annotations

import json
import shutil

import pytest

from wanbatch.errors import UserError
from wanbatch.pipeline.loading import registry

TURBO = {"guidance": 1.0, "sampler": "lcm", "sigmas": [1, 0.9375, 0.8333, 0.625]}


@pytest.fixture
def copy(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "model")


def change(path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_weights_for_few_steps_come_with_their_noise_levels(copy):
    (copy / "wanbatch.json").write_text(json.dumps({"width": 64, **TURBO}))
    info = registry.find(str(copy))
    assert (info.sampler, info.steps, info.guidance) == ("lcm", 4, 1.0)
    assert info.sigmas == (1.0, 0.9375, 0.8333, 0.625)
    assert (info.width, info.shift, info.schedule) == (64, 3.0, "linear")


def test_fastwan_is_a_model_as_it_is_published(copy):
    (copy / "wanbatch.json").unlink()
    change(copy / "model_index.json", _class_name="WanDMDPipeline")
    info = registry.find(str(copy))
    assert (info.sampler, info.steps, info.guidance, info.sigmas) == ("lcm", 3, 1.0, (1.0, 0.757, 0.522))
    (copy / "wanbatch.json").write_text('{"steps": 8, "sampler": "euler"}')
    info = registry.find(str(copy))
    assert (info.sampler, info.steps, info.sigmas) == ("euler", 8, None)


def test_a_folder_may_stand_for_a_scheduler_that_is_not_reproduced(copy):
    change(copy / "scheduler" / "scheduler_config.json", solver_order=4)
    with pytest.raises(UserError, match="solver_order"):
        registry.find(str(copy)).check_scheduler()
    change(copy / "wanbatch.json", sampler="euler")
    registry.find(str(copy)).check_scheduler()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sampler": "eulre"}, "sampler is 'eulre': must be one of unipc"),
        ({"schedule": 3}, "schedule is 3: must be one of linear"),
        ({"sigmas": [0.5, 0.7]}, "sigmas must be falling noise levels"),
        ({"sigmas": [1.0, 0.0]}, "sigmas must be falling noise levels"),
        ({"sigmas": [2.0]}, "sigmas must be falling noise levels"),
        ({"sigmas": [1.0, float("nan")]}, "sigmas must be falling noise levels"),
        ({"sigmas": 1.0}, "sigmas must be falling noise levels"),
        ({"sigmas": [1.0], "shift": 3.0}, "sigmas say every noise level, and shift too"),
    ],
)
def test_what_cannot_be_is_refused(copy, fields, said):
    (copy / "wanbatch.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=said):
        registry.find(str(copy))
