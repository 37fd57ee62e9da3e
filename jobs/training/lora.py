"""`wanbatch train lora`: from what the user gave to an adapter in a folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.training.asked import check_batch, check_name, said_by_first, training_device, training_type
from wanbatch.jobs.training.pictures import PictureSet, find_pictures, renames_of_each
from wanbatch.manifests.storage.user_files import require_place
from wanbatch.pipeline.adapters.files import AdapterFile
from wanbatch.pipeline.loading.registry import ModelInfo, find
from wanbatch.pipeline.training.lora.captions import check_template
from wanbatch.pipeline.training.lora.card import About
from wanbatch.pipeline.training.lora.examples import UNMASKED_WEIGHT
from wanbatch.pipeline.training.lora.measures import Measures
from wanbatch.pipeline.training.lora.model import TrainingModel
from wanbatch.pipeline.training.lora.run import UNRELATED, Listener, train_lora
from wanbatch.pipeline.training.lora.settings import LoraSettings
from wanbatch.pipeline.training.lora.start import AT_NO_CHANGE, check_start, start_of
from wanbatch.pipeline.training.optimizers import check_optimizer
from wanbatch.pipeline.training.processes import Processes, joined_processes


@dataclass(frozen=True, slots=True)
class LoraRequest:
    """What is asked for.

    Attributes:
        images: A folder, a Parquet file, an output folder of wanbatch, or any other manifest with images.
        name: Of the adapter.
        out: Folder of the training.
        model: See `registry.find`.
        revision: Of a hub model.
        settings: Of the training.
        resolution: Side of a square with as many pixels as a training picture; None: the model's own size.
        trigger: The word that calls for the adapter.
        template: What captions are put into.
        caption: Of pictures that have none.
        prompts: Of sample pictures; none: some captions.
        unrelated: Prompts that have nothing to do with the adapter; none: common ones.
        license: Of the adapter.
        rights: In the pictures.
        author: Of the adapter.
        device: `cpu` or `cuda`; None: a GPU if there is one.
        prior: Pictures of what the model shall go on making as before, in any form that `images` may have.
        prior_weight: Of their loss; None: 1.
        masks: Where masks of the pictures are: a folder, a column, or `beside`; None: there are none.
        unmasked_weight: Of the loss where masks are black; None: `UNMASKED_WEIGHT`.
        cache: Folder of latents, which trainings may share; None: one in `out`.
        start_from: The file of an adapter to begin with; None: at no change.
        renames: Columns of `images` and `prior` that are read as others, each where it is.
    """

    images: str | Path
    name: str
    out: Path
    model: str
    revision: str | None
    settings: LoraSettings
    resolution: int | None = None
    trigger: str | None = None
    template: str = "{caption}"
    caption: str | None = None
    prompts: Sequence[str] = ()
    unrelated: Sequence[str] = ()
    license: str | None = None
    rights: str | None = None
    author: str | None = None
    device: str | None = None
    prior: str | Path | None = None
    prior_weight: float | None = None
    masks: str | None = None
    unmasked_weight: float | None = None
    cache: Path | None = None
    start_from: Path | None = None
    renames: Mapping[str, str] = field(default_factory=dict)


def train(request: LoraRequest, say: Callable[[str], None]) -> dict[str, Any]:
    """Check everything that can be wrong, then train; a folder with the same training is gone on with.

    Args:
        request: What is asked for.
        say: Takes lines of text.

    Returns:
        What `--json` prints: the file, the number of pictures, and what was measured.

    Raises:
        UserError: If something is wrong with what was given.
    """
    processes = joined_processes(request.device == "cpu")
    if processes.state is not None:
        check_batch(request.settings.batch, processes.count)
        say = said_by_first(processes, say)
    found = checked(request, say)
    pictures, info = found.pictures, found.info
    device = found.device if processes.state is None else processes.state.device
    say(f"{number_of(len(pictures.found), 'pictures')}, {info.name}, {device.type}, {request.settings.steps} steps")
    model = TrainingModel.load(info, device, training_type(info, device), request.settings.base_precision)
    file, measured = _train(request, model, found, say, processes)
    return {"file": str(file), "pictures": len(pictures.found), **measured.as_dict()}


@dataclass(frozen=True, slots=True)
class Checked:
    """What a training that is asked for is made of.

    Attributes:
        pictures: Of the training.
        prior: Of what the model shall go on making; None: there are none.
        info: The model.
        device: Where it is trained.
        start: The adapter to begin with; None: at no change.
    """

    pictures: PictureSet
    prior: PictureSet | None
    info: ModelInfo
    device: torch.device
    start: AdapterFile | None = None


def checked(request: LoraRequest, say: Callable[[str], None]) -> Checked:
    """Check everything that can be wrong with what is asked for; no model is loaded.

    Args:
        request: What is asked for.
        say: Takes warnings.

    Raises:
        UserError: If something is wrong with it.
    """
    check_name(request.name)
    require_place(request.out, folder=True)
    check_template(request.template, request.trigger)
    check_optimizer(request.settings.optimizer)
    if request.unmasked_weight is not None and request.masks is None:
        raise UserError("--unmasked-weight: has no effect without --masks: give them, or drop it")
    pictures, prior = _pictures_and_prior(request)
    for warning in (*pictures.warnings, *(prior.warnings if prior else ())):
        say(f"warning: {warning}")
    info = find(request.model, request.revision)
    check_expert(request.settings.expert, info)
    if request.resolution is not None and request.resolution < info.multiple:
        raise UserError(f"--resolution {request.resolution}: must be at least {info.multiple} for {info.name}")
    if pictures.masks is not None:
        pictures.masks.check(pictures.manifest, pictures.found, info, _area(request) or info.width * info.height)
    device = training_device(request.device)
    start = None if request.start_from is None else check_start(request.start_from, info, request.settings)
    return Checked(pictures, prior, info, device, start)


def check_expert(expert: str | None, info: ModelInfo) -> None:
    """Check which transformers of a model are to be trained.

    Args:
        expert: See `LoraSettings`.
        info: The model.

    Raises:
        UserError: If it has two and it is not said, or it has one and it is.
    """
    if info.two_experts and expert is None:
        raise UserError(f"{info.name} has two transformers (A14B): say which is trained, --expert high, low or both")
    if not info.two_experts and expert is not None:
        raise UserError(f"--expert {expert}: {info.name} has one transformer: drop it")


def _pictures_and_prior(request: LoraRequest) -> tuple[PictureSet, PictureSet | None]:
    """The pictures to train on, and those of what the model shall go on making, whose captions stand as they are."""
    if request.prior is None and request.prior_weight is not None:
        raise UserError("--prior-weight: has no effect without --prior: give it pictures, or drop it")
    paths = [request.images] if request.prior is None else [request.images, request.prior]
    renames, *renames_of_prior = renames_of_each(paths, request.renames)
    pictures = find_pictures(
        request.images, request.template, request.trigger, request.caption, request.masks, renames
    )
    if request.prior is None:
        return pictures, None
    of_prior = find_pictures(request.prior, "{caption}", None, None, renames=renames_of_prior[0], one_for_all=False)
    return pictures, of_prior


def _train(
    request: LoraRequest,
    model: TrainingModel,
    found: Checked,
    say: Callable[[str], None],
    processes: Processes,
) -> tuple[Path, Measures]:
    pictures, prior, quiet = found.pictures, found.prior, not processes.first
    weight = 1.0 if request.prior_weight is None else request.prior_weight
    said = {key: value for key in ("license", "rights", "author") if (value := getattr(request, key)) is not None}
    about = About(
        request.name, request.model, str(request.images), len(pictures.found),
        template=request.template, trigger=request.trigger, **said,
        prior=f"{number_of(len(prior.found), 'pictures')} from `{prior.path}`, weight {weight:g}" if prior else "",
        start=_words_of_start(request, found),
        masks=f"of `{request.masks}`, black parts with a weight of {_unmasked(request):g}" if request.masks else "",
    )  # fmt: skip
    with (
        tqdm(total=len(pictures.found), desc="encoding", unit="picture", file=sys.stderr, disable=quiet) as encoding,
        tqdm(total=request.settings.steps, desc="training", unit="step", file=sys.stderr, disable=quiet) as training,
    ):

        def encoded(number: int) -> None:
            encoding.update(number - encoding.n)

        def stepped(number: int, loss: float) -> None:
            training.set_postfix(loss=f"{loss:.4f}", refresh=False)
            training.update(number - training.n)

        return train_lora(
            model, pictures.load(), about, request.settings, request.out,
            area=_area(request), prompts=request.prompts, unrelated=request.unrelated or UNRELATED,
            prior=prior.load() if prior else (), prior_weight=weight,
            unmasked_weight=_unmasked(request), cache=request.cache, processes=processes,
            start=AT_NO_CHANGE if found.start is None else start_of(found.start, request.settings),
            listener=Listener(say, encoded, stepped),
        )  # fmt: skip


def _words_of_start(request: LoraRequest, found: Checked) -> str:
    """What the card says of the adapter that the training began with; empty: there was none."""
    if request.start_from is None or found.start is None:
        return ""
    return f"the adapter `{request.start_from.name}` (SHA-256 {found.start.digest})"


def _area(request: LoraRequest) -> int | None:
    return None if request.resolution is None else request.resolution**2


def _unmasked(request: LoraRequest) -> float:
    return UNMASKED_WEIGHT if request.unmasked_weight is None else request.unmasked_weight
