"""Distillation to few steps: its losses, where its rollouts go, and that it can be gone on with to the bit."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
import torch
from few_step_making import SETTINGS, distillation, random_bank, small_transformer

from wanbatch.errors import UserError
from wanbatch.pipeline.models import attention_choice
from wanbatch.pipeline.sampling.schedules import levels as schedule_levels
from wanbatch.pipeline.training import low_rank
from wanbatch.pipeline.training.experts import Experts
from wanbatch.pipeline.training.few_step import losses
from wanbatch.pipeline.training.few_step.distillation import ADAPTER_FILE, LOG_FILE
from wanbatch.pipeline.training.few_step.levels import random_schedule, shifted, unshifted
from wanbatch.pipeline.training.few_step.settings import FewStepSettings
from wanbatch.pipeline.training.few_step.steps import DistillationSteps
from wanbatch.pipeline.training.few_step.teacher import FAKE, STUDENT, adapted_networks, guidance_of
from wanbatch.pipeline.training.low_rank import IMAGE_LAYERS, LowRankAdapters, read_state
from wanbatch.pipeline.training.processes import ALONE, Processes
from wanbatch.pipeline.training.resumable import Learner

CPU = torch.device("cpu")


def test_levels_are_those_of_the_schedule_that_the_student_is_for():
    even = shifted(torch.tensor([1.0, 0.75, 0.5, 0.25]), 3.0)
    torch.testing.assert_close(even, torch.tensor(schedule_levels(4, 3.0)[:-1]).float(), atol=1e-3, rtol=0)
    level = torch.tensor([0.1, 0.5, 1.0])
    torch.testing.assert_close(shifted(unshifted(level, 3.0), 3.0), level)


def test_random_levels_fall_and_lie_one_in_each_part():
    torch.manual_seed(0)
    drawn = random_schedule(torch.ones(500), 5, torch.tensor(5.0), even_share=0.0)
    assert drawn.shape == (5, 500)
    assert (drawn[0] == 1).all()
    for number in range(1, 5):
        high = 0.98 - 0.24 * (number - 1)
        assert ((drawn[number] <= high) & (drawn[number] >= high - 0.24 - 1e-6)).all()
    lower = random_schedule(torch.full((500,), 0.4), 5, torch.tensor(5.0), even_share=1.0)
    torch.testing.assert_close(lower[:, 0], 0.4 * torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2]))


def constant_picture(value: float) -> losses.Network:
    """A network that sees the same picture in everything."""
    return lambda noisy, level, prompts: (noisy - value) / losses.wide(level)


def scale(value: float) -> losses.Guidance:
    return lambda level: torch.full_like(losses.wide(level), value)


def prompts_of(count: int) -> losses.Prompts:
    return losses.Prompts(torch.zeros(count, 1, 1), torch.ones(count, dtype=torch.int64))


def test_matching_moves_pictures_from_what_the_student_makes_to_what_the_teacher_sees():
    torch.manual_seed(0)
    weight = torch.tensor(0.0, requires_grad=True)
    networks = losses.Networks(
        teacher=constant_picture(1.0),
        student=lambda noisy, level, prompts: (noisy - weight) / losses.wide(level),
        fake=constant_picture(-0.5),
        negative=prompts_of,
    )
    noisy = torch.randn(3, 2, 2, 2)
    loss = losses.matching_loss(
        networks, noisy, torch.ones(3), prompts_of(3), shift=3.0, guidance=scale(2.0), strength=1.0
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(loss, weight)
    # (fake - teacher) over the distance of 1 between the student's picture and the teacher's; there is no guidance
    # where both prompts show the same.
    torch.testing.assert_close(gradient, torch.tensor(-1.5))


def test_matching_moves_pictures_away_from_the_negative_prompt():
    torch.manual_seed(0)
    weight = torch.tensor(0.0, requires_grad=True)

    def teacher(noisy, level, prompts):
        return (noisy - losses.wide(prompts.lengths.float())) / losses.wide(level)

    networks = losses.Networks(
        teacher,
        lambda noisy, level, prompts: (noisy - weight) / losses.wide(level),
        constant_picture(1.0),  # as the teacher, so that guidance alone is left
        lambda count: losses.Prompts(torch.zeros(count, 1, 1), torch.zeros(count, dtype=torch.int64)),
    )
    loss = losses.matching_loss(
        networks, torch.randn(3, 2, 2, 2), torch.ones(3), prompts_of(3), shift=3.0, guidance=scale(4.0), strength=1.0
    )
    (gradient,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(gradient, torch.tensor(-3.0))


def test_the_teachers_guidance_is_that_of_the_transformer_of_a_noise_level():
    one, settings = small_transformer(), replace(SETTINGS, guidance=4.0, guidance_2=3.0)
    level = torch.tensor([0.9, 0.7, 0.69, 0.1])
    found = guidance_of(Experts(one, small_transformer(), 0.7), settings)(level)
    assert found.shape == (4, 1, 1, 1)
    assert found.flatten().tolist() == [4.0, 4.0, 3.0, 3.0]
    assert guidance_of(Experts(one), settings)(level).flatten().tolist() == [4.0] * 4
    same = guidance_of(Experts(one, small_transformer(), 0.7), SETTINGS)(level)
    assert same.flatten().tolist() == [SETTINGS.guidance] * 4


def test_a_consistent_student_has_no_consistency_loss_and_another_has():
    torch.manual_seed(0)
    networks = losses.Networks(constant_picture(0.3), constant_picture(0.3), constant_picture(0.0), prompts_of)
    arguments = {"steps": 8, "shift": 3.0, "guidance": scale(2.0)}
    latents = torch.randn(4, 2, 2, 2)
    assert losses.consistency_loss(networks, latents, prompts_of(4), **arguments) < 1e-9
    other = losses.Networks(networks.teacher, lambda noisy, level, prompts: noisy, networks.fake, prompts_of)
    assert losses.consistency_loss(other, latents, prompts_of(4), **arguments) > 1e-3


def test_the_fake_score_learns_what_the_student_makes():
    torch.manual_seed(0)
    networks = losses.Networks(constant_picture(0.0), constant_picture(0.7), constant_picture(0.7), prompts_of)
    noisy, u = torch.randn(4, 2, 2, 2), torch.full((4,), 0.5)
    assert losses.fake_loss(networks, noisy, u, prompts_of(4), shift=3.0) < 1e-9


def test_an_adapter_changes_nothing_until_it_is_trained_and_only_while_it_is_active():
    dit = small_transformer()
    latents, level = torch.randn(2, 3, 4, 4), torch.tensor([700.0, 300.0])
    context = dit.context(torch.randn(2, 5, 8), torch.tensor([5, 3]), 512)
    before = dit(latents, level, context)
    adapters = LowRankAdapters(dit)
    parameters = adapters.add("one", 2)
    with adapters.active("one"):
        torch.testing.assert_close(dit(latents, level, context), before, atol=1e-6, rtol=1e-5)
    for matrix in parameters[1::2]:
        torch.nn.init.normal_(matrix, std=0.1)
    with adapters.active("one"):
        assert (dit(latents, level, context) - before).abs().max() > 1e-2
    torch.testing.assert_close(dit(latents, level, context), before, atol=1e-6, rtol=1e-5)


def test_a_distillation_is_gone_on_with_to_the_bit(tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir()
    halves.mkdir()
    done = distillation(whole, 9).run(dict)
    assert done["phase"] == "matching"
    assert done["student_updates"] > 1
    for stop_at in (2, 5, None):  # within the first phase, within the second, to the end
        distillation(halves, 9, stop_at).run(dict)
    wanted, header = read_state(whole / ADAPTER_FILE)
    found, _ = read_state(halves / ADAPTER_FILE)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert any(value.abs().max() > 0 for name, value in wanted.items() if "lora_B" in name)
    assert (header["wanbatch.steps"], header["wanbatch.sampler"], header["wanbatch.guidance"]) == ("4", "euler", "1")
    assert len(header["wanbatch.levels"].split(",")) == 4
    assert [json.loads(line)["step"] for line in (halves / LOG_FILE).read_text().splitlines()] == [2, 5, 9]


class Killed(Exception):
    """Ends a process at once."""


def test_a_distillation_that_is_killed_is_gone_on_with_to_the_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    distillation(whole, 9).run(dict)
    for last in (2, 3):  # steps of the call, after each of which the state is kept
        kept = []

        def until_killed(kept=kept, last=last) -> dict:
            kept.append(None)
            if len(kept) == last:
                raise Killed
            return {}

        with pytest.raises(Killed):
            distillation(killed, 9).run(until_killed, minutes_between=0)
    steps = []
    distillation(killed, 9).run(dict, told=lambda made, phase: steps.append(made))
    assert steps == [6, 7, 8, 9]
    wanted, header = read_state(whole / ADAPTER_FILE)
    found, of_killed = read_state(killed / ADAPTER_FILE)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert of_killed["ss_steps"] == header["ss_steps"] == "9"


class GradientsOnly(Learner):
    """Learns nothing, and keeps what it would have learned from."""

    def apply(self) -> None:
        self.gradients = [matrix.grad for matrix in self.parameters]


@pytest.mark.parametrize("kind", ["consistency", "matching", "fake"])
def test_the_parts_of_all_processes_are_what_one_alone_computes(kind):
    dit, bank = small_transformer(), random_bank()
    adapters = LowRankAdapters(dit, IMAGE_LAYERS)
    learners = {name: GradientsOnly(adapters.add(name, 2, seed=5), CPU, 0.0) for name in (STUDENT, FAKE)}
    for matrix in (*learners[STUDENT].parameters, *learners[FAKE].parameters):
        torch.nn.init.normal_(matrix, std=0.2, generator=torch.Generator().manual_seed(matrix.numel()))

    def computed(processes: Processes) -> tuple[float, list[torch.Tensor]]:
        networks, guidance = adapted_networks(Experts(dit), adapters, bank), guidance_of(Experts(dit), SETTINGS)
        steps = DistillationSteps(networks, learners, bank, SETTINGS, guidance, processes)
        torch.manual_seed(3)
        evaluations = () if kind == "consistency" else (max(2, steps.draw_evaluations()),)
        loss = getattr(steps, kind)(*evaluations)
        return float(loss), learners[FAKE if kind == "fake" else STUDENT].gradients

    whole, gradients = computed(ALONE)
    parts = [computed(Processes(number, 2)) for number in range(2)]
    assert parts[0][0] != pytest.approx(parts[1][0], rel=1e-3)
    assert sum(loss for loss, _ in parts) / 2 == pytest.approx(whole, rel=1e-4)
    assert any(gradient.abs().max() > 1e-4 for gradient in gradients)
    for one, other, wanted in zip(parts[0][1], parts[1][1], gradients, strict=True):
        torch.testing.assert_close((one + other) / 2, wanted, rtol=1e-3, atol=1e-5)


def test_checkpointing_trains_the_same_adapter(tmp_path):
    """The backward pass computes blocks again when another adapter is active, or none."""
    made = []
    for checkpointing in (False, True):
        out = tmp_path / str(checkpointing)
        out.mkdir()
        training = distillation(out, 4, settings=replace(SETTINGS, checkpointing=checkpointing))
        training.run(dict)
        made.append(read_state(out / ADAPTER_FILE)[0])
    assert made[0].keys() == made[1].keys()
    for name, matrix in made[0].items():
        assert torch.allclose(made[1][name].float(), matrix.float(), atol=1e-6), name


def test_the_backward_pass_computes_blocks_with_the_same_attention_kernels(monkeypatch):
    """On CUDA each keeps other tensors for its backward pass, so that others are an error there."""
    chosen = []

    @contextlib.contextmanager
    def kernels(device):
        before = torch.backends.cuda.math_sdp_enabled()
        torch.backends.cuda.enable_math_sdp(not before)
        try:
            yield
        finally:
            torch.backends.cuda.enable_math_sdp(before)

    monkeypatch.setattr(attention_choice, "attention_kernels", kernels)
    monkeypatch.setattr(low_rank, "attention_kernels", kernels)
    dit = small_transformer()
    adapters = LowRankAdapters(dit, IMAGE_LAYERS)
    adapters.add(STUDENT, 2)
    for block in dit.blocks:
        block.forward = _noting(block.forward, lambda: chosen.append(torch.backends.cuda.math_sdp_enabled()))
    adapters.checkpoint_blocks()
    bank = random_bank()
    with adapters.active(STUDENT):
        context = dit.context(bank.prompts.embeds[:2], bank.prompts.lengths[:2], 6)
        made = dit(bank.latents[:2], torch.full((2,), 500.0), context)
    made.square().sum().backward()
    assert len(chosen) == 2 * len(dit.blocks)
    assert len(set(chosen)) == 1


def _noting(forward, note):
    def noted(*arguments):
        note()
        return forward(*arguments)

    return noted


def test_settings_are_kept_and_unknown_ones_refused(tmp_path):
    FewStepSettings(rank=5, step_counts=(2, 4)).save(tmp_path / "settings.json")
    loaded = FewStepSettings.load(tmp_path / "settings.json", batch=8)
    assert (loaded.rank, loaded.batch, loaded.step_counts) == (5, 8, (2, 4))
    with pytest.raises(UserError, match="unknown setting 'rnak'; there are average, base_precision"):
        FewStepSettings.load(tmp_path / "settings.json", rnak=1)


def test_the_student_makes_latents_by_euler(tmp_path):
    training = distillation(tmp_path, 1)
    path = torch.tensor(schedule_levels(2, 3.0)).float()
    start = torch.randn(2, 3, 4, 4)
    made = training.student(start, path, training.bank.at(torch.tensor([0, 1])))
    assert made.shape == start.shape
    assert STUDENT in training.learners
