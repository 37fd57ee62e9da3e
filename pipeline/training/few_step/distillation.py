"""A distillation: consistency first, then distribution matching, on one frozen transformer with two adapters."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.few_step import FewStepUse
from wanbatch.pipeline.sampling.schedules import levels as schedule_levels
from wanbatch.pipeline.training.experts import Experts, file_names
from wanbatch.pipeline.training.few_step.losses import Prompts, roll_out
from wanbatch.pipeline.training.few_step.settings import FewStepSettings
from wanbatch.pipeline.training.few_step.steps import DistillationSteps
from wanbatch.pipeline.training.few_step.teacher import FAKE, STUDENT, PromptBank, adapted_networks, guidance_of
from wanbatch.pipeline.training.loop import Budget, Captured
from wanbatch.pipeline.training.low_rank import LowRankAdapters
from wanbatch.pipeline.training.processes import ALONE, Processes
from wanbatch.pipeline.training.resumable import Learner, TrainingState

CONSISTENCY, MATCHING = "consistency", "matching"
NAME = "few-step"
ADAPTER_FILE, STATE_FILE, SETTINGS_FILE, LOG_FILE = f"{NAME}.safetensors", "state.pt", "settings.json", "log.jsonl"
RATES = {CONSISTENCY: "consistency_rate", MATCHING: "student_rate", FAKE: "fake_rate"}
WARM_UP = 50  # steps in which a learning rate rises
SMALLEST_RATE = 0.1  # of the highest


@dataclass(slots=True)
class _Place:
    """Where a distillation is, beside its tensors; kept with them."""

    phase: str = CONSISTENCY
    student_updates: int = 0
    fake_updates: int = 0


class Distillation:
    """The training of one few-step adapter in a folder, from which it is gone on with.

    Args:
        experts: The teacher; it is frozen, and its layers take up the adapters.
        adapters: Of the teacher, without any yet.
        bank: Prompts and latents.
        settings: All numbers.
        budget: How long.
        out: The folder; it exists.
        report: Called with a line of text now and then.
        name: Of the adapter, and of its file.
        processes: That train it together; the first one writes.
    """

    def __init__(
        self,
        experts: Experts,
        adapters: LowRankAdapters,
        bank: PromptBank,
        settings: FewStepSettings,
        budget: Budget,
        out: Path,
        report: Callable[[str], None] = print,
        name: str = NAME,
        processes: Processes = ALONE,
    ):
        self.name, self.processes = name, processes
        self.settings, self.bank, self.budget, self.out, self.report = settings, bank, budget, out, report
        self.adapters, self.device = adapters, bank.latents.device
        self.networks = adapted_networks(experts, adapters, bank)
        self.learners = {
            name: Learner(adapters.add(name, rank, seed=settings.seed + index), self.device, settings.average)
            for index, (name, rank) in enumerate({STUDENT: settings.rank, FAKE: settings.fake_rank}.items())
        }
        self.state = TrainingState(self.learners, budget, self.device)
        self.place = _Place()
        self._losses: dict[str, Tensor] = {}
        self._steps = DistillationSteps(
            self.networks, self.learners, bank, settings, guidance_of(experts, settings), processes
        )
        self._captured: dict[tuple[str, int], Captured] = {}
        if settings.checkpointing:
            adapters.checkpoint_blocks()
        # A block that is computed again reads the random numbers' state, which a graph cannot record.
        # Nor is what processes tell each other, or which rows are of which transformer.
        recordable = processes.count == 1 and experts.low is None and not settings.checkpointing
        self._recording = self.device.type == "cuda" and recordable

    def run(
        self,
        evaluate: Callable[[], dict[str, Any]],
        minutes_between: float = 1.0,
        told: Callable[[int, str], None] = lambda made, phase: None,
    ) -> dict[str, Any]:
        """Train until the budget is spent; a folder with a state is gone on with.

        Args:
            evaluate: Called now and then with the averaged student active; what it returns is logged.
            minutes_between: Of training, from one call to the next.
            told: Called with the number of steps made and the phase after each.

        Returns:
            What was done.

        Raises:
            UserError: If a loss or a weight is not a number any more; the last good state and adapter stay.
        """
        self._prepare()
        last = self.budget.elapsed
        for number in self.budget:
            if self.place.phase == CONSISTENCY and self.budget.progress >= self.settings.consistency_share:
                self._begin_matching()
            self._step()
            told(number + 1, self.place.phase)
            if number % 50 == 0:
                self._look()
            if self.budget.elapsed - last > minutes_between * 60:
                self._keep(evaluate, number + 1)
                last = self.budget.elapsed
        self._keep(evaluate, self.budget.step)
        return self.budget.spent() | {"phase": self.place.phase, "student_updates": self.place.student_updates}

    @torch.no_grad()
    def student(self, start: Tensor, path: Tensor, prompts: Prompts) -> Tensor:
        """What the student makes by Euler's method: latents.

        Args:
            start: `[B, z, h, w]` at the first level.
            path: `[steps + 1]`, levels down to 0.
            prompts: Of the rows.
        """
        return roll_out(self.networks.student, start, path[:, None].expand(-1, len(start)), prompts)

    def _prepare(self) -> None:
        """Record all steps, which changes the weights, and go on from where the training is."""
        begin = self.state.take({})
        if self._recording:
            self._record()
        self.state.put(begin)
        file = self.out / STATE_FILE
        if file.exists():
            self.place = _Place(**self.state.load(file))
            self.report(f"going on at step {self.budget.step}, {self.budget.elapsed:.0f} s, {self.place.phase}")
        if self.processes.first:
            self.settings.save(self.out / SETTINGS_FILE)
        self.budget.restart()

    def _record(self) -> None:
        """Record every step that there may be; without recordings the training goes on, only slower."""
        try:
            self._captured_step(CONSISTENCY)
            for evaluations in range(1, max(self.settings.step_counts) + 1):
                self._captured_step(MATCHING, evaluations)
                self._captured_step(FAKE, evaluations)
        except RuntimeError as error:
            self._captured.clear()
            self._recording = False
            self.report(f"steps are not recorded as CUDA graphs, which makes them slower: {error}")

    def _captured_step(self, kind: str, evaluations: int = 1) -> Callable[[], Tensor]:
        key = (kind, evaluations)
        if key not in self._captured:
            step = {
                CONSISTENCY: self._steps.consistency,
                MATCHING: lambda: self._steps.matching(evaluations),
                FAKE: lambda: self._steps.fake(evaluations),
            }[kind]
            if not self._recording:
                return step
            learner = self.learners[FAKE if kind == FAKE else STUDENT]
            graphs = [captured.graph for captured in self._captured.values() if captured.graph is not None]
            pool = graphs[0].pool() if graphs else None  # they are replayed in turn, and share their memory
            self._captured[key] = Captured(step, self.device, learner.optimizer.clear, pool)
        return self._captured[key]

    def _step(self) -> None:
        place, settings = self.place, self.settings
        if place.phase == CONSISTENCY:
            self._set_rate(
                STUDENT, settings.consistency_rate, self.budget.step, self.budget.progress / _share(settings)
            )
            self._note(CONSISTENCY, self._captured_step(CONSISTENCY)())
            place.student_updates += 1
            return
        progress = (self.budget.progress - settings.consistency_share) / max(1e-6, 1 - settings.consistency_share)
        self._set_rate(FAKE, settings.fake_rate, place.fake_updates, progress)
        warm = place.fake_updates >= settings.fake_warm_up
        for _ in range(settings.fake_steps if warm else 1):
            self._note(FAKE, self._captured_step(FAKE, self._steps.draw_evaluations())())
            place.fake_updates += 1
        if not warm:
            return
        self._set_rate(STUDENT, settings.student_rate, place.student_updates, progress)
        if float(torch.rand(())) < settings.consistency_again:
            self._note(CONSISTENCY, self._captured_step(CONSISTENCY)())
        else:
            self._note(MATCHING, self._captured_step(MATCHING, self._steps.draw_evaluations())())
        place.student_updates += 1

    def _begin_matching(self) -> None:
        """The student goes on from its average, with a new optimizer."""
        self.learners[STUDENT].average.adopt()
        self.learners[STUDENT].restart()
        self.place = _Place(phase=MATCHING)
        self.report(f"matching begins at step {self.budget.step}, {self.budget.elapsed:.0f} s")

    def _set_rate(self, name: str, peak: float, updates: int, progress: float) -> None:
        fall = SMALLEST_RATE + (1 - SMALLEST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        self.learners[name].optimizer.set_rate(peak * min(1.0, (updates + 1) / WARM_UP) * fall)

    def _note(self, kind: str, loss: Tensor) -> None:
        """Keep a running mean of a loss, left on the device."""
        before = self._losses.get(kind)
        self._losses[kind] = loss.clone() if before is None else before.lerp(loss, 0.05)

    def _look(self) -> dict[str, float]:
        """The losses of late.

        Raises:
            UserError: If one is not a number.
        """
        losses = {kind: float(loss) for kind, loss in self._losses.items()}
        for kind, loss in losses.items():
            if not math.isfinite(loss):
                raise self._not_finite(f"the {kind} loss is {loss}", RATES[kind])
        return losses

    def _ensure_finite_weights(self) -> None:
        """A loss may be a number whose gradients are none.

        Raises:
            UserError: If a weight is not a number.
        """
        for name, rate in ((STUDENT, RATES[self.place.phase]), (FAKE, RATES[FAKE])):
            if not self.learners[name].finite():
                raise self._not_finite(f"weights of the {name} are no numbers", rate)

    def _not_finite(self, what: str, rate: str) -> UserError:
        """What ends the training. what: is no number; rate: the setting that would help."""
        kept = (
            f"the last good state is in {self.out}; go on from it"
            if (self.out / STATE_FILE).exists()
            else "no state was kept yet; begin again"
        )
        lower = getattr(self.settings, rate) / 3
        return UserError(
            f"{what} at step {self.budget.step}: {kept} with a lower learning rate: --set {rate}={lower:.2g}"
        )

    def _keep(self, evaluate: Callable[[], dict[str, Any]], made: int) -> None:
        """Save state and adapter, and log losses and scores; this is not part of the training's time.

        Args:
            evaluate: See `run`.
            made: Steps; inside the loop the budget's own number is still that of the last one.
        """
        elapsed, begin = self.budget.elapsed, time.monotonic()
        losses = self._look()
        self._ensure_finite_weights()
        if not self.processes.first:
            return
        number, self.budget.step = self.budget.step, made
        self.state.save(self.out / STATE_FILE, asdict(self.place))
        with self.learners[STUDENT].average.applied():
            self.save_adapter()
            scores = evaluate()
        line = {
            "step": made, "seconds": round(elapsed, 1), **asdict(self.place),
            "loss": losses, "scores": scores,
        }  # fmt: skip
        with (self.out / LOG_FILE).open("a") as log:
            log.write(json.dumps(line) + "\n")
        self.report(f"{json.dumps(line)} ({time.monotonic() - begin:.0f} s to look)")
        self.budget.go_on(number, elapsed)

    @property
    def files(self) -> list[Path]:
        """Of the adapter: one for each transformer."""
        return [self.out / name for name in file_names(self.name, self.adapters.experts)]

    def save_adapter(self, more: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Write the student as it is, with all that one has to know to use it in its header.

        Args:
            more: What else the header says.
        """
        settings = self.settings
        steps = settings.main_steps
        use = FewStepUse(steps, "euler", "linear", settings.shift, 1.0)
        path_of_levels = schedule_levels(steps, settings.shift)
        header = use.header() | {
            "wanbatch.levels": ",".join(f"{level:.6g}" for level in path_of_levels[:-1]),
            "wanbatch.teacher_guidance": settings.guidance,
            **({"wanbatch.teacher_guidance_2": settings.guidance_2} if settings.guidance_2 else {}),
            "ss_network_module": "networks.lora",
            "ss_steps": self.budget.step,
            "ss_seed": settings.seed,
            "ss_learning_rate": settings.student_rate,
            "ss_discrete_flow_shift": settings.shift,
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.title": "few steps without guidance",
            "modelspec.usage_hint": f"{number_of(steps, 'steps')} of euler, shift {settings.shift:g}, guidance 1",
        }
        for expert, file in zip(self.adapters.experts, self.files, strict=True):
            self.adapters.save(STUDENT, file, {**header, **more, "ss_output_name": file.stem}, expert=expert)


def _share(settings: FewStepSettings) -> float:
    return max(1e-6, settings.consistency_share)
