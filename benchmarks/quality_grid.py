"""The configurations that `quality.py` compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wanbatch.jobs.config.presets import recipe
from wanbatch.jobs.tuning.candidates import Candidate
from wanbatch.pipeline.loading.registry import ModelInfo

REFERENCE_STEPS = 100
BASE_STEPS = 50  # what speed-ups are told against, and what caches are tried on


@dataclass(frozen=True, slots=True)
class Configuration:
    candidate: Candidate
    precision: str = "fp32"

    def __str__(self) -> str:
        return str(self.candidate) + ("" if self.precision == "fp32" else f", {self.precision}")


def grid(model: ModelInfo) -> Iterator[Configuration]:
    """All configurations, what says most first. Caches leave out thirds of the blocks, as 10 and 20 of 30."""
    third, two_thirds = round(model.layers / 3), round(model.layers * 2 / 3)
    steps = (BASE_STEPS, 4, 8, 12, 16, 20, 30)
    more = dict.fromkeys(("dpmpp_2m", "deis", "res_2m", "unipc3", "euler"), (8,))
    more |= {"unipc": (2, 6), "heun": (4,), "res_2s": (4,)}  # the last two evaluate the model seven times
    more |= dict.fromkeys(("euler_ancestral", "lcm"), (8,))  # these end at other pictures
    caches = {
        BASE_STEPS: (
            f"deepcache:interval=2,blocks={third}", f"deepcache:interval=2,blocks={two_thirds}", "taylor:interval=2",
            "taylor:interval=3", "adaptive:threshold=0.1", "none+gate:interval=2",
            "taylor:interval=2+gate:interval=4",
        ),
        20: ("taylor:interval=2",),
        **dict.fromkeys((12, 8), (
            f"deepcache:interval=2,blocks={third}", f"deepcache:interval=2,blocks={two_thirds}", "taylor:interval=2",
        )),
    }  # fmt: skip
    yield from (Configuration(Candidate("unipc", n)) for n in steps)
    yield from (Configuration(Candidate("unipc", n, text)) for n, texts in caches.items() for text in texts)
    yield from (Configuration(Candidate(sampler, n)) for sampler, counts in more.items() for n in counts)
    yield from (Configuration(Candidate("unipc", 8, schedule=name)) for name in ("beta", "karras", "exponential"))
    yield from (Configuration(Candidate("unipc", 12, text), "bf16") for text in ("none", "taylor:interval=2"))
    yield Configuration(Candidate("unipc", 12), "fp8")  # emulated on a CPU: its time there says nothing
    for preset in ("balanced", "fast"):
        chosen = {"sampler": model.sampler, "steps": model.steps} | recipe(preset, model)
        yield Configuration(Candidate(**chosen))
