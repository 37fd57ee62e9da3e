"""Writing a model as runs read it fastest: joined, rounded, one file a part; see `converted.py`."""

from __future__ import annotations

import errno
import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from wanbatch import __version__
from wanbatch.errors import MachineryError, UserError
from wanbatch.pipeline.core.tensor_files import save_tensors
from wanbatch.pipeline.loading.converted import CONVERTED_FILE, CONVERTED_STEM, Converted
from wanbatch.pipeline.loading.filling import kept_tensors
from wanbatch.pipeline.loading.model_form import CLASSES
from wanbatch.pipeline.loading.registry import ADAPTERS, SOUND, ModelInfo, files_digest
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import block_maker, check_precision
from wanbatch.pipeline.loading.tokenizer import PromptTokenizer, read_tokenizer
from wanbatch.pipeline.loading.weight_files import stored_tensors
from wanbatch.pipeline.loading.weights import STEMS, load_part
from wanbatch.pipeline.models.umt5_parts import UMT5Encoder

TYPES = {"fp32": (torch.float32, 4), "bf16": (torch.bfloat16, 2), "fp8": (torch.bfloat16, 2)}
"""What most tensors of a converted model are in, and its bytes."""

GIB = 1 << 30
COPIED = ("model_index.json", "wanbatch.json", "README.md", "LICENSE", "LICENSE.txt", "NOTICE")
COPIED_FOLDERS = ("scheduler", "tokenizer", ADAPTERS, SOUND)


def convert(info: ModelInfo, location: str, out: Path, precision: str, device: torch.device) -> int:
    """Write a model as a converted folder.

    Args:
        info: Of the model, from `registry.find`, with its weights.
        location: What the converted folder says that it is made of.
        out: The folder to be made. It appears whole or not at all.
        precision: `fp32`, `bf16` or `fp8`.
        device: Where weights are rounded to FP8: that where the model will be run.

    Returns:
        The bytes of its files.

    Raises:
        UserError: The model cannot be converted so, or the folder is there already.
        MachineryError: The disk refuses.
    """
    check_before(info, out)
    _check_room(info, out, precision)
    runtime = Runtime(fp8=precision == "fp8")
    check_precision(runtime, device)
    source = Path(info.folder)
    with _whole_or_not_at_all(out) as folder:
        _copy_beside(source, folder)
        for name in CLASSES:
            if (source / name).is_dir() and (name != "transformer_2" or info.two_experts):
                ready = block_maker(runtime, device)
                part = load_part(info, name, device, TYPES[precision][0], ready)
                _write_part(part, source / name, folder / name)
                del part
        converted = Converted(
            precision=precision,
            rounded_on=device.type if runtime.fp8 else "",
            source=location,
            revision=info.revision,
            source_digest=info.digest,
            digest=files_digest(folder),
            wanbatch=__version__,
        )
        (folder / CONVERTED_FILE).write_text(json.dumps(converted.as_json(), indent=1) + "\n")
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_before(info: ModelInfo, out: Path) -> None:
    """Check what can be known by the model's configuration alone.

    Raises:
        UserError: The model is converted already or has a text encoder of another kind, or the folder is there.
    """
    if info.converted is not None:
        raise UserError(
            f"{info.name}: was converted already, to {info.converted.precision}, of {info.converted.source}: convert "
            "that"
        )
    if out.exists():
        raise UserError(f"{out}: is there already: choose another folder, or remove it")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.absolute().parent}: make it first")
    config = json.loads((Path(info.folder) / "text_encoder" / "config.json").read_text())
    if not UMT5Encoder.is_written_here(config):
        raise UserError(f"{info.name}: its text encoder is of a kind that only transformers reads: use it as it is")


def _check_room(info: ModelInfo, out: Path, precision: str) -> None:
    needed, free = bytes_of(info, precision), shutil.disk_usage(out.absolute().parent).free
    if needed > free:
        raise UserError(
            f"{out}: takes {needed / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free there: make room, or choose "
            "another disk"
        )


def bytes_of(info: ModelInfo, precision: str) -> int:
    """About how many bytes a converted model takes."""
    total = 0
    for name, stem in STEMS.items():
        if (Path(info.folder) / name).is_dir():
            numbers = sum(math.prod(one.shape) for one in stored_tensors(Path(info.folder) / name, stem).values())
            one = 1 if precision == "fp8" and name.startswith("transformer") else TYPES[precision][1]
            total += numbers * one
    return total


@contextmanager
def _whole_or_not_at_all(out: Path) -> Iterator[Path]:
    """A folder that gets its name at the end; whatever happens before, nothing is left of it."""
    out = out.absolute()
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.converting-", dir=out.parent))
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}): choose another folder") from error
    try:
        yield folder
        folder.chmod(0o755)
        folder.rename(out)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        remedy = "make room, or choose another disk" if full else "look after the disk"
        raise MachineryError(f"{out}: cannot be written ({error}), and nothing of it was left: {remedy}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy_beside(source: Path, folder: Path) -> None:
    """Copy what is no weights, and write the tokenizer so that it is read as it is."""
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    for name in COPIED_FOLDERS:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, copy_function=shutil.copyfile)
    tokenizer = read_tokenizer(source / "tokenizer")
    if isinstance(tokenizer, PromptTokenizer):
        return
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    (folder / "tokenizer" / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    said = {"tokenizer_class": "TokenizersBackend", "pad_token": tokenizer.pad_token}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(said) + "\n", encoding="utf-8")


def _write_part(part: nn.Module, source: Path, folder: Path) -> None:
    folder.mkdir()
    shutil.copyfile(source / "config.json", folder / "config.json")
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in kept_tensors(part).items()}
    save_tensors(kept, folder / f"{CONVERTED_STEM}.safetensors")
