"""What every small training shares: a budget in minutes, a learning rate over it, averaged weights, fast steps."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


class Budget:
    """A training's length: whichever of minutes and steps ends first."""

    def __init__(self, minutes: float, steps: int):
        self.seconds, self.steps = minutes * 60, steps
        self.start, self.step = time.monotonic(), 0

    def restart(self) -> None:
        """Starts the clock anew: compiling took a while and trained nothing."""
        self.start = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    @property
    def progress(self) -> float:
        """0 at the start, 1 when either limit is reached."""
        return min(1.0, max(self.elapsed / self.seconds, self.step / self.steps))

    def __iter__(self):
        """Yields step numbers until the budget is spent."""
        while self.progress < 1:
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

    def clear(self) -> None:
        """Drop the gradients."""
        self.adam.zero_grad(set_to_none=True)

    def apply(self) -> None:
        """One step, along gradients that are clipped to a norm of 1."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.adam.step()


class Checkpoints:
    """Saves the averaged weights now and then.

    Args:
        average: Of the weights.
        save: Called with the averaged weights in place.
        seconds: Of training from one call to the next.
    """

    def __init__(self, average: Average, save: Callable[[], None] = lambda: None, seconds: float = 120):
        self._average, self._save, self._seconds = average, save, seconds
        self._last = 0.0

    def save_if_due(self, elapsed: float) -> None:
        """Save if the last call was long enough ago; `elapsed` is the training's time in seconds."""
        if elapsed - self._last > self._seconds:
            self._last = elapsed
            with self._average.applied():
                self._save()


class Captured:
    """Calls `step()`; on a GPU its kernels are recorded once as a CUDA graph and replayed.

    A small model's step is some thousand kernels of a few microseconds: launched one by one they wait for the CPU.
    `step` must return a tensor that it makes and read its inputs from tensors that stay where they are. The
    warm-up calls are real steps.
    """

    def __init__(self, step: Callable[[], Tensor], device: torch.device, clear: Callable[[], None]):
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
        with torch.cuda.graph(self.graph):
            self.result = step()

    def __call__(self) -> Tensor:
        if self.graph is None:
            return self.step()
        self.graph.replay()
        return self.result
