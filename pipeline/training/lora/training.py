"""The loop that trains an adapter by flow matching, and goes on to the bit where it ended."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.files import HIGH
from wanbatch.pipeline.training.few_step.levels import shifted
from wanbatch.pipeline.training.loop import Budget
from wanbatch.pipeline.training.lora.examples import Examples
from wanbatch.pipeline.training.lora.model import TrainingModel, padded
from wanbatch.pipeline.training.lora.settings import LoraSettings
from wanbatch.pipeline.training.lora.start import AT_NO_CHANGE, Start
from wanbatch.pipeline.training.low_rank import LowRankAdapters
from wanbatch.pipeline.training.processes import ALONE, Processes
from wanbatch.pipeline.training.resumable import Learner, TrainingState

STATE_FILE, LOSSES_FILE = "state.pt", "losses.json"
FIXED_LEVELS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95)
"""Noise levels at which a loss is measured that can be compared with another."""


class LossNotFinite(UserError):
    """A training whose loss is not a number any more."""


@dataclass(frozen=True, slots=True)
class Prior:
    """Pictures of what the model shall go on making: prior preservation (Ruiz et al. 2022, arXiv:2208.12242).

    Attributes:
        examples: Pictures without what is trained, with captions that do not call for it.
        weight: Of their loss, where that of the training's own pictures has 1.
    """

    examples: Examples
    weight: float

    @classmethod
    def of(cls, examples: Examples, weight: float) -> Prior | None:
        """One of these pictures; None if there is none."""
        return cls(examples, weight) if len(examples) else None


class LoraTraining:
    """The training of one adapter in a folder.

    Args:
        model: What it is trained on; frozen.
        adapters: Of the model's transformer.
        name: Of the adapter.
        examples: What it is trained with.
        settings: All numbers.
        out: Folder of the state; it exists.
        report: Called with a line of text now and then.
        prior: What is trained beside it; None: nothing.
        processes: That train it together.
        start: What it begins with.
    """

    def __init__(
        self,
        model: TrainingModel,
        adapters: LowRankAdapters,
        name: str,
        examples: Examples,
        settings: LoraSettings,
        out: Path,
        report: Callable[[str], None] = print,
        prior: Prior | None = None,
        processes: Processes = ALONE,
        start: Start = AT_NO_CHANGE,
    ):
        self.processes = processes
        self.model, self.adapters, self.name, self.prior = model, adapters, name, prior
        self.examples, self.settings, self.out, self.report = examples, settings, out, report
        parameters = adapters.add(name, settings.rank, settings.alpha, settings.seed)
        for expert, state in start.states.items():
            adapters.load(name, state, expert)
        self.learner = Learner(
            parameters, model.device, settings.average, settings.weight_decay, settings.optimizer
        )  # fmt: skip
        self.budget = Budget(math.inf, settings.steps)
        self.losses: list[float] = []
        self._state = TrainingState({name: self.learner}, self.budget, model.device)
        self._shift = model.info.shift if settings.shift is None else settings.shift
        if settings.checkpointing:
            adapters.checkpoint_blocks()

    def run(self, sample: Callable[[int], object], told: Callable[[int, float], None]) -> None:
        """Train to the last step; a folder with a state is gone on with. In the end the weights are the average.

        Args:
            sample: Called with the number of steps made, the averaged adapter being active.
            told: Called with the number of steps made and the loss after each.

        Raises:
            LossNotFinite: If the loss or a weight is not a number any more; the last good state that was kept stays.
        """
        torch.manual_seed(self.settings.seed)
        if (self.out / STATE_FILE).exists():
            self.losses = list(self._state.load(self.out / STATE_FILE)["losses"])
            self.report(f"going on at step {self.budget.step} of {self.settings.steps}")
        self.budget.restart()
        for number in self.budget:
            loss = self._step(number)
            self.losses.append(loss)
            told(number + 1, loss)
            self._keep_if_due(number + 1, sample)
        if self.settings.average > 0:
            self.learner.average.adopt()

    def _keep_if_due(self, made: int, sample: Callable[[int], object]) -> None:
        settings = self.settings
        if made % settings.save_every == 0 or made == settings.steps:
            if not self.learner.finite():
                raise self._not_finite(f"weights of the adapter are no numbers after step {made}", made - 1)
            if self.processes.first:
                self._save(made)
        if settings.sample_every and (made % settings.sample_every == 0 or made == settings.steps):
            with self.averaged(), self.adapters.active(self.name):
                sample(made)

    def averaged(self) -> Any:
        """Within, the adapter's weights are those that will be saved."""
        return self.learner.average.applied()

    def _save(self, made: int) -> None:
        step, self.budget.step = self.budget.step, made
        self._state.save(self.out / STATE_FILE, {"losses": self.losses})
        self.budget.step = step
        (self.out / LOSSES_FILE).write_text(json.dumps([round(loss, 6) for loss in self.losses]) + "\n")

    def _step(self, number: int) -> float:
        """One step of the optimizer; its mean loss."""
        settings, total = self.settings, 0.0
        fall = 0.5 * (1 + math.cos(math.pi * number / settings.steps))
        self.learner.optimizer.set_rate(settings.rate * min(1.0, (number + 1) / max(1, settings.warm_up)) * fall)
        self.learner.optimizer.clear()
        for _ in range(settings.accumulate):
            with self.adapters.active(self.name):
                loss = self._loss(self.examples)
                if self.prior is not None:
                    loss = loss + self.prior.weight * self._loss(self.prior.examples)
                loss = loss / settings.accumulate
                loss.backward()
            total += float(loss.detach())
        total = self._averaged_over_processes(total)
        if not math.isfinite(total):
            raise self._not_finite(f"the loss is {total} at step {number + 1}", number)
        self.learner.apply()
        return total

    def _not_finite(self, what: str, good: int) -> LossNotFinite:
        """What ends the training. what: is no number; good: how many steps were made before."""
        every = self.settings.save_every
        saved = good // every * every
        kept = (
            f"the state after {number_of(saved, 'steps')} is kept in {self.out}" if saved else "no state was kept yet"
        )
        return LossNotFinite(
            f"{what}: {kept}. Lower the rate (--rate, now {self.settings.rate:g}) and give another --out, or look "
            "for pictures that are damaged"
        )

    def _averaged_over_processes(self, loss: float) -> float:
        """Average the gradients over all processes, and the loss, which is returned."""
        if self.processes.count == 1:
            return loss
        return float(self.processes.averaged(torch.tensor(loss, device=self.model.device), self.learner.parameters))

    def _loss(self, examples: Examples) -> Tensor:
        settings, device = self.settings, self.model.device
        counts = torch.tensor([len(captions) for captions in examples.captions], dtype=torch.float)
        place = int(torch.multinomial(counts, 1))
        rows = torch.randint(int(counts[place]), (settings.batch,)).tolist()
        latents = examples.latents[place][rows].to(device)
        dropped = (torch.rand(settings.batch) < settings.dropout).tolist()
        captions = ["" if drop else examples.captions[place][row] for row, drop in zip(rows, dropped, strict=True)]
        level, noise = self._levels(settings.batch).to(device), torch.randn(latents.shape).to(device)
        weights = examples.weights[place][rows].to(device) if examples.weights else None
        # All processes have drawn the same, so that what is seen does not depend on how many there are.
        part = self.processes.part
        texts = [examples.texts[caption].to(device) for caption in captions[part]]
        weights = None if weights is None else weights[part]
        return flow_loss(self.model, latents[part], noise[part], level[part], texts, weights)

    def _levels(self, count: int) -> Tensor:
        """Noise levels `[count]`, of those that the transformers that are trained are for."""
        level = self._drawn(count)
        if len(self.adapters.experts) == len(self.model.experts):
            return level
        above = HIGH in self.adapters.experts
        while len(others := ((level >= self.model.boundary) != above).nonzero().flatten()):
            level[others] = self._drawn(len(others))
        return level

    def _drawn(self, count: int) -> Tensor:
        normal = self.settings.levels == "logit_normal"
        return shifted(torch.randn(count).sigmoid() if normal else torch.rand(count), self._shift)


def flow_loss(
    model: TrainingModel,
    latents: Tensor,
    noise: Tensor,
    level: Tensor,
    texts: Sequence[Tensor],
    weights: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the velocity that is predicted for noised latents.

    Args:
        model: That predicts it.
        latents: `[B, z, h, w]`.
        noise: As large.
        level: `[B]`.
        texts: Text states of each.
        weights: `[B, h, w]`, of the error at each place; each picture then counts as much as another. None: all 1.
    """
    share = level[:, None, None, None]
    velocity = model.velocity((1 - share) * latents + share * noise, level, *padded(texts))
    if weights is None:
        return F.mse_loss(velocity, noise - latents)
    error = (velocity - (noise - latents)).square().mean(1)
    return ((error * weights).sum((1, 2)) / weights.sum((1, 2))).mean()


@torch.no_grad()
def fixed_loss(model: TrainingModel, examples: Examples, most: int = 32) -> float:
    """The loss on some examples with noise and levels that are always the same; of what is active.

    Args:
        model: Of the training.
        examples: Of which the first of each size are taken.
        most: How many of each.
    """
    losses = []
    for place, (latents, captions) in enumerate(zip(examples.latents, examples.captions, strict=True)):
        for row in range(min(most, len(latents))):
            generator = torch.Generator().manual_seed(row)
            count = len(FIXED_LEVELS)
            one = latents[row : row + 1].to(model.device).expand(count, -1, -1, -1)
            noise = torch.randn(one.shape, generator=generator).to(model.device)
            texts = [examples.texts[captions[row]].to(model.device)] * count
            level = torch.tensor(FIXED_LEVELS, device=model.device)
            weights = None
            if examples.weights:
                weights = examples.weights[place][row : row + 1].to(model.device).expand(count, -1, -1)
            losses.append(float(flow_loss(model, one, noise, level, texts, weights)))
    return math.fsum(losses) / max(1, len(losses))
