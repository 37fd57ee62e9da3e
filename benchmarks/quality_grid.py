"""The configurations that `quality.py` compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wanbatch.jobs.planning.presets import recipe
from wanbatch.jobs.tuning.candidates import Candidate
from wanbatch.pipeline.loading.registry import ModelInfo

REFERENCE_STEPS = 100
TEXT, IMAGE, BLEND = "text to image", "image to image", "blend"
GUIDANCES = {"guidance 1": 1.0, "guidance 4": 4.0}
TASKS = (TEXT, *GUIDANCES, IMAGE, BLEND)
"""What is asked for: a text at the model's guidance or another, a text with a source, with two blended sources."""

BASE_STEPS = 50  # what speed-ups are told against, and what caches are tried on


@dataclass(frozen=True, slots=True)
class Configuration:
    """How pictures are made: one of `TASKS`, a candidate's settings, a precision."""

    candidate: Candidate
    precision: str = "fp32"
    task: str = TEXT

    def __str__(self) -> str:
        ends = [*([] if self.precision == "fp32" else [self.precision]), *([] if self.task == TEXT else [self.task])]
        return ", ".join([str(self.candidate), *ends])


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
        **dict.fromkeys((20, 24), ("taylor:interval=2",)),
        **dict.fromkeys((16, 12, 10, 8), (
            f"deepcache:interval=2,blocks={third}", f"deepcache:interval=2,blocks={two_thirds}", "taylor:interval=2",
        )),
    }  # fmt: skip
    yield from (Configuration(Candidate("unipc", n)) for n in steps)
    yield from (Configuration(Candidate("unipc", n, text)) for n, texts in caches.items() for text in texts)
    yield from (Configuration(Candidate(sampler, n)) for sampler, counts in more.items() for n in counts)
    yield from (Configuration(Candidate("unipc", 8, schedule=name)) for name in ("beta", "karras", "exponential"))
    yield from (Configuration(Candidate("unipc", 12, text), "bf16") for text in ("none", "taylor:interval=2"))
    yield from (
        Configuration(Candidate("unipc", n), "fp8") for n in (BASE_STEPS, 12, 8)
    )  # emulated on a CPU: its time there says nothing
    yield from (Configuration(Candidate("unipc", n), "int8") for n in (12, 8))
    for preset in ("balanced", "fast"):
        chosen = {"sampler": model.sampler, "steps": model.steps} | recipe(preset, model)
        yield Configuration(Candidate(**chosen))
    yield from _of_other_tasks(third, two_thirds)


def _of_other_tasks(third: int, two_thirds: int) -> Iterator[Configuration]:
    """The same few for all of them."""
    for task in TASKS[1:]:
        for steps in (BASE_STEPS, 12, 8, 4, 2):
            yield Configuration(Candidate("unipc", steps), task=task)
        for cache in (f"deepcache:interval=2,blocks={third}", f"deepcache:interval=2,blocks={two_thirds}"):
            yield Configuration(Candidate("unipc", 12, cache), task=task)
        yield Configuration(Candidate("unipc", 20, "taylor:interval=2"), task=task)
        yield Configuration(Candidate("euler", 8), task=task)


def pairs(model: ModelInfo) -> Iterator[tuple[Configuration, Configuration]]:
    """What is compared picture by picture: the first is thought to be the better one, or the cheaper one."""
    third, two_thirds = (f"deepcache:interval=2,blocks={round(model.layers * part)}" for part in (1 / 3, 2 / 3))
    for task in TASKS:
        for steps in (8, 10, 12, 16, BASE_STEPS) if task == TEXT else (12,):
            candidates = (Candidate("unipc", steps, cache) for cache in (third, two_thirds))
            first, second = (Configuration(candidate, task=task) for candidate in candidates)
            yield first, second
    ours = {steps: Configuration(Candidate("unipc", steps, "taylor:interval=2")) for steps in (12, 16, 20, 24)}
    plain = {steps: Configuration(Candidate("unipc", steps)) for steps in (6, 8, 12, 20, BASE_STEPS)}
    for steps, others in {16: (8, 10, 12), 20: (12, 16), 24: (16,)}.items():
        for other in others:
            for cache in (third, two_thirds):
                yield ours[steps], Configuration(Candidate("unipc", other, cache))
    yield from ((ours[16], plain[8]), (ours[20], plain[12]), (ours[12], plain[6]))
    for steps in (8, 12, BASE_STEPS):
        yield Configuration(Candidate("unipc", steps), "fp8"), plain[steps]
    yield Configuration(Candidate("unipc", 12), "bf16"), plain[12]
    for other in ("bf16", "fp8"):
        yield tuple(Configuration(Candidate("unipc", 12), precision) for precision in ("int8", other))
    yield Configuration(Candidate("unipc", 12), "int8"), plain[12]
    for task in TASKS:
        first, second = (Configuration(Candidate(sampler, 8), task=task) for sampler in ("euler", "unipc"))
        yield first, second
