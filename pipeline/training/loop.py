"""What every small training shares: a budget in minutes, a learning rate over it, averaged weights, fast steps."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Budget:
    """A training's length: whichever of minutes and steps ends first, over all its runs.

    Args:
        minutes: of training in all.
        steps: in all.
        stop_after: minutes after which this run leaves the rest to another one.
    """

    def __init__(self, minutes: float, steps: int, stop_after: float = math.inf):
        self.seconds, self.steps = minutes * 60, steps
        self._deadline = time.monotonic() + stop_after * 60
        self._spent, self.step = 0.0, 0
        self._start = time.monotonic()

    def restart(self) -> None:
        """Start the clock of this run anew: compiling took a while and trained nothing."""
        self._start = time.monotonic()

    def go_on(self, step: int, elapsed: float) -> None:
        """Go on where an earlier run ended, after so many steps and seconds of training."""
        self.step, self._spent = step, elapsed
        self.restart()

    @property
    def elapsed(self) -> float:
        """Seconds of training, those of earlier runs too."""
        return self._spent + time.monotonic() - self._start

    @property
    def progress(self) -> float:
        """0 at the start, 1 when either limit is reached."""
        return min(1.0, max(self.elapsed / self.seconds, self.step / self.steps))

    def spent(self) -> dict[str, float]:
        """What was done, for the record of a training: steps, seconds, and the part of the whole."""
        return {"steps": self.step, "seconds": round(self.elapsed, 1), "progress": self.progress}

    def __iter__(self):
        """Yields step numbers until the budget is spent, or this run has to end."""
        while self.progress < 1 and time.monotonic() < self._deadline:
            yield self.step
            self.step += 1

    def rate(self, peak: float) -> float:
        """A warm-up over the first fiftieth, then a half cosine down to nothing."""
        return peak * min(1.0, self.progress * 50) * 0.5 * (1 + math.cos(math.pi * self.progress))


class Average:
    """An exponential moving average of parameters."""

    def __init__(self, parameters: Iterable[Tensor], decay: float):
        self.live = list(parameters)
        self.kept = [parameter.detach().clone() for parameter in self.live]
        self.decay = decay

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self.kept, self.live, 1 - self.decay)

    @torch.no_grad()
    def restart(self) -> None:
        """Forgets the past: the first steps are far from anything worth keeping."""
        torch._foreach_copy_(self.kept, self.live)

    @torch.no_grad()
    def adopt(self) -> None:
        """Let the live parameters take the average for good."""
        torch._foreach_copy_(self.live, self.kept)

    @contextlib.contextmanager
    def applied(self):
        """Within, the live parameters hold the average."""
        with torch.no_grad():
            training = [parameter.clone() for parameter in self.live]
            torch._foreach_copy_(self.live, self.kept)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.live, training)


class Optimizer:
    """AdamW whose learning rate is a tensor, so that a captured step can be steered, with clipped gradients."""

    def __init__(self, parameters: Iterable[nn.Parameter], device: torch.device, decay: float = 0.0):
        self.parameters = list(parameters)
        self.rate = torch.zeros((), device=device)
        self.adam = torch.optim.AdamW(
            self.parameters, lr=self.rate, betas=(0.9, 0.98), weight_decay=decay,
            fused=True, capturable=device.type == "cuda",
        )  # fmt: skip

    def set_rate(self, rate: float) -> None:
        """The learning rate of the steps to come."""
        self.rate.fill_(rate)

    def moments(self) -> dict:
        """What `load` takes up again."""
        return self.adam.state_dict()["state"]

    def moments_in_place(self) -> list[Tensor]:
        """The tensors that hold the moments and the number of steps, once there was one; in a fixed order."""
        state = self.adam.state
        return [state[p][name] for p in self.parameters for name in ("step", "exp_avg", "exp_avg_sq")]

    def load(self, moments: dict) -> None:
        """Go on with an earlier optimizer's moments."""
        self.adam.load_state_dict(self.adam.state_dict() | {"state": moments})
        for group in self.adam.param_groups:
            group["lr"] = self.rate  # loading made a copy of it

    def begin(self) -> None:
        """Make the moments by a step along the gradients that there are, which should be zero."""
        self.adam.step()

    def clear(self) -> None:
        """Drop the gradients."""
        self.adam.zero_grad(set_to_none=True)

    def apply(self) -> None:
        """One step, along gradients that are clipped to a norm of 1."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.adam.step()


class RecentLosses:
    """The losses of the last thousand steps, every fiftieth of them, left on the device."""

    def __init__(self) -> None:
        self._kept: deque[Tensor] = deque(maxlen=20)

    def note(self, number: int, loss: Tensor) -> None:
        """The loss of a step."""
        if number % 50 == 0:
            self._kept.append(loss.clone())

    def mean(self) -> float:
        """Their mean."""
        return torch.stack(list(self._kept)).mean().item()


class Checkpoints:
    """Keeps what a training needs to be gone on with: weights, their average, the optimizer's moments, the clock.

    Args:
        file: Where it is kept; None: nowhere.
        optimizer: Of the parameters.
        average: Of the parameters.
        budget: What of it is spent.
        seconds: Of training from one save to the next.
    """

    def __init__(
        self, file: Path | None, optimizer: Optimizer, average: Average, budget: Budget, seconds: float = 120
    ):
        self._file, self._optimizer, self._average = file, optimizer, average
        self._budget, self._seconds, self._last = budget, seconds, 0.0

    def go_on(self) -> None:
        """Take up what an earlier run left, if there is any."""
        if self._file is None or not self._file.exists():
            return
        state = torch.load(self._file, map_location=self._average.live[0].device, weights_only=True)
        with torch.no_grad():
            torch._foreach_copy_(self._average.live, state["live"])
            torch._foreach_copy_(self._average.kept, state["kept"])
        self._optimizer.load(state["moments"])
        self._budget.go_on(state["step"], state["elapsed"])
        self._last = state["elapsed"]

    def save_if_due(self) -> None:
        """Save if the last time was long enough ago."""
        if self._file is not None and self._budget.elapsed - self._last > self._seconds:
            self.save()

    def save(self) -> None:
        """Write the file whole, then put it in place of the one before."""
        if self._file is None:
            return
        self._last = self._budget.elapsed
        state = {
            "live": self._average.live,
            "kept": self._average.kept,
            "moments": self._optimizer.moments(),
            "step": self._budget.step,
            "elapsed": self._last,
        }
        unfinished = self._file.with_suffix(".new")
        torch.save(state, unfinished)
        unfinished.replace(self._file)


class Captured:
    """Calls `step()`; on a GPU its kernels are recorded once as a CUDA graph and replayed.

    A small model's step is some thousand kernels of a few microseconds: launched one by one they wait for the CPU.
    `step` must return a tensor that it makes and read its inputs from tensors that stay where they are. The
    warm-up calls are real steps.

    Args:
        step: What is called.
        device: Where it works.
        clear: Drops gradients before the recording.
        pool: Of a graph whose memory this one may use, too; the two must then be replayed in turn, and a result be
            read before the next call.
    """

    def __init__(self, step: Callable[[], Tensor], device: torch.device, clear: Callable[[], None], pool: Any = None):
        self.step, self.graph = step, None
        if device.type != "cuda":
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        clear()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.result = step()

    def __call__(self) -> Tensor:
        if self.graph is None:
            return self.step()
        self.graph.replay()
        return self.result
