"""What the first pictures of each length of text cost after a start, with and without first uses beside loading.

    python benchmarks/first_uses.py --model FOLDER [--rounds 2] [--out benchmarks/results/NAME.json]
    python benchmarks/first_uses.py --model tiny --images 2          on a CPU, where nothing is built beside loading

FOLDER is a model such as `python -m wanbatch.pipeline.loading.random_model FOLDER` writes. Each line is a process of
its own: seconds of `Wan.load`, of the warm-up with one picture of 30 words as a worker makes it, and then of
`--images` pictures for each length that texts are padded to, once and once again with other prompts of the same
lengths. What a length cost because it was new is the difference of the two. Half of the prompts of a length have the
largest number of tokens that is padded to it, half two thirds of that.

Before, one process whose figures do not count has the files in the page cache and the kernels compiled. Ways take
turns, `--rounds` times each. `same_pictures` says whether all made the same pictures, bit for bit. Needs neither Ray
nor pydantic.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WAYS = {"with": True, "without": False}
WARM_UP_TOKENS = 40


def main() -> None:
    options = _options()
    if options.child:
        print(json.dumps(start(options)), flush=True)
        return
    import torch
    from circumstances import circumstances

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    result: dict[str, Any] = {"what": "first uses of each length of text", **circumstances(("torch",), gpu=card)}
    result["runs"] = []
    child(options, "without")
    for _ in range(options.rounds):
        for way in WAYS:
            found = child(options, way)
            print(json.dumps(found), flush=True)
            result["runs"].append(found)
            result["same_pictures"] = len({run["digest"] for run in result["runs"]}) == 1
            if options.out:
                options.out.write_text(json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="its folder, or tiny")
    parser.add_argument("--images", type=int, default=16, help="of each length, each time")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--precision", choices=["fp8", "bf16"], default="fp8", help="on a GPU")
    parser.add_argument("--out", type=Path, help="write the result here too")
    parser.add_argument("--child", choices=list(WAYS), help=argparse.SUPPRESS)
    return parser.parse_args()


def child(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """What `start` finds in a process of its own."""
    command = [sys.executable, __file__, "--child", way]
    for name in ("model", "images", "slots", "steps", "guidance", "precision"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def start(options: argparse.Namespace) -> dict[str, Any]:
    """Load the model in this process and make pictures of each length; seconds of each part."""
    import torch

    from wanbatch.pipeline.core.device import synchronized_time
    from wanbatch.pipeline.generate import Wan
    from wanbatch.pipeline.loading import registry
    from wanbatch.pipeline.loading.runtime import Runtime

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.zeros(1, device=device)
    if cuda:  # as a worker's process has it before it has a model
        from wanbatch.pipeline.models import dit_fused, umt5_fused, vae_fused  # noqa: F401
    info = registry.find(options.model)
    requests = Requests(info, options)
    example = requests.of([WARM_UP_TOKENS])
    runtime = Runtime(compile=cuda, fp8=cuda and options.precision == "fp8")
    dtype, first = "bfloat16" if cuda else "float32", example if WAYS[options.child] else None
    begin = synchronized_time(device)
    wan = Wan.load(info, device.type, dtype, options.slots, runtime, examples=first)
    seconds = {"load": synchronized_time(device) - begin, "warm-up": wan.warm_up(example)}
    lengths, digest = of_each_length(wan, requests, options.images)
    uses = wan.first_uses
    return {
        "way": options.child,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "lengths": lengths,
        "lost_to_new_lengths": round(sum(one["first"] - one["again"] for one in lengths.values()), 3),
        "beside_loading": {name: round(value, 3) for name, value in uses.made.items()},
        "left_out": uses.left_out,
        "failure": uses.failure,
        "backends": wan.backends,
        "digest": digest,
    }


def of_each_length(wan: Any, requests: Requests, images: int) -> tuple[dict[int, dict[str, float]], str]:
    """Seconds of some pictures of each length, once and once again, and a digest of all of them."""
    from wanbatch.pipeline.core.device import synchronized_time
    from wanbatch.pipeline.core.requests import Failed
    from wanbatch.pipeline.first_uses.selection import MOST_COMMON

    digest, lengths = hashlib.sha256(), {}
    for length in MOST_COMMON:
        lengths[length] = {}
        for time in ("first", "again"):
            wanted = requests.of([length if number % 2 else length * 2 // 3 for number in range(images)])
            begin = synchronized_time(wan.device)
            outcomes = {outcome.request.id: outcome for outcome in wan.generate(wanted)}
            lengths[length][time] = round(synchronized_time(wan.device) - begin, 3)
            for _, outcome in sorted(outcomes.items()):
                digest.update(b"failed" if isinstance(outcome, Failed) else outcome.pixels.tobytes())
    return lengths, digest.hexdigest()


class Requests:
    """Makes requests of prompts with given numbers of tokens, each another one.

    Args:
        info: Of the model.
        options: Of the command.
    """

    def __init__(self, info: Any, options: argparse.Namespace):
        from wanbatch.pipeline.loading.tokenizer import read_tokenizer

        self._info, self._count = info, 0
        self._tokenizer = read_tokenizer(Path(info.folder) / "tokenizer")
        self._changes: dict[str, Any] = {"steps": options.steps, "guidance": options.guidance}

    def of(self, tokens: Sequence[int]) -> list[Any]:
        """A request of each number of tokens, the end of the prompt included, or of as few less as can be."""
        from model_requests import request_of

        prompts = [self._prompt(count) for count in tokens]
        return [
            request_of(self._info, id=str(n), seed=n, prompt=prompt, **self._changes)
            for n, prompt in enumerate(prompts)
        ]

    def _prompt(self, tokens: int) -> str:
        from mixed_prompts import WORDS

        self._count += 1
        number, words = self._count, list[str]()
        while number:  # what tells it from others comes first
            words.append(WORDS[number % len(WORDS)])
            number //= len(WORDS)
        while self._length([*words, WORDS[0]]) <= tokens:
            words.append(WORDS[0])
        return " ".join(words)

    def _length(self, words: Sequence[str]) -> int:
        return len(self._tokenizer([" ".join(words)], truncation=False, max_length=0).input_ids[0])


if __name__ == "__main__":
    main()
