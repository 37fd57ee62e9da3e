"""Everything that is read and checked before anything is started: manifest, model, plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from wanbatch.jobs.config.settings import Settings, image_format, signing_files
from wanbatch.jobs.planning.adapters import find_adapters, half_warnings, idle_row_adapters, unused_warning
from wanbatch.jobs.planning.checks import check_rows, check_settings
from wanbatch.jobs.planning.embedded_texts import warnings_of_cut_texts
from wanbatch.jobs.planning.few_step import warnings_of_few_steps
from wanbatch.jobs.planning.long_prompts import with_long_prompts
from wanbatch.jobs.planning.model_copies import find_model
from wanbatch.jobs.planning.plan import Plan, make_plan
from wanbatch.jobs.planning.prompt_syntax import with_syntax_warnings
from wanbatch.jobs.planning.sounds import check_sounds, hearing_of, sound_warnings
from wanbatch.jobs.planning.source_sizes import (
    Measuring,
    loading_from,
    size_rows,
    unreadable_sources,
    with_every_source,
)
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.reading.manifest import look_at_none, read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.sources.path_policy import PathPolicy
from wanbatch.manifests.sources.size_cache import SizeCache
from wanbatch.pipeline.loading.registry import ModelInfo


def read_plan(
    manifest_path: str | Path,
    settings: Settings,
    weights: bool = True,
    seems_right: Callable[[], None] | None = None,
    look_at_sources: bool = False,
) -> tuple[Plan, ModelInfo]:
    """Read a manifest, find the model and plan the work, without a look at sources of a good one; needs no torch.

    Args:
        manifest_path: path or URL of the manifest.
        settings: with the preset applied.
        weights: also fetch the weights of a hub model.
        seems_right: called once settings, the model's configuration and the first rows of a long manifest are right,
            before the rest is read.
        look_at_sources: if something is wrong with the manifest, also say which of its sources cannot be read.

    Raises:
        UserError: With everything that is wrong.
    """
    image_format(settings)
    signing_files(settings)
    model = find_model(settings.model, settings.revision, weights=False, cache=settings.model_cache)
    check_settings(settings, model)
    hearing = hearing_of(settings, model)
    manifest = read_manifest(
        manifest_path,
        settings.source_root,
        settings.allow_http,
        lambda rows: [*check_rows(rows, model, settings), *check_sounds(rows, hearing, model)],
        settings.source_fence,
        renames=settings.map,
        strict=settings.strict,
        prompt_of_run=settings.prompt is not None,
        committed_rows=committed_rows,
        split=settings.split,
        seems_right=seems_right,
        look_at=partial(_unreadable, allow_http=settings.allow_http) if look_at_sources else look_at_none,
    )
    if weights:
        model = find_model(settings.model, settings.revision, cache=settings.model_cache)
    adapters = find_adapters(manifest, settings, model)
    plan = with_syntax_warnings(make_plan(manifest, model, settings, adapters, hearing))
    unused = (*unused_warning(settings, adapters), *idle_row_adapters(settings, adapters), *half_warnings(adapters))
    unused += tuple(sound_warnings(manifest.rows, settings))
    plan = replace(plan, warnings=(*plan.warnings, *unused, *warnings_of_few_steps(plan)))
    if settings.embed_settings:
        plan = replace(plan, warnings=(*plan.warnings, *warnings_of_cut_texts(plan)))
    return with_long_prompts(plan, model), model


def _unreadable(sources: Sequence[Source], policy: PathPolicy, *, allow_http: bool) -> Mapping[int, str]:
    """What is wrong with sources, by their index; see `manifest.LookAt`."""
    return unreadable_sources(sources, lambda: SourceLoader(policy.root, allow_http=allow_http, fence=policy.fence))


def prepare(
    manifest_path: str | Path, settings: Settings, weights: bool = True, every_source: bool = False
) -> tuple[Plan, ModelInfo]:
    """Like `read_plan`, with the sizes of all rows that follow a source.

    Args:
        manifest_path: path or URL of the manifest.
        settings: with the preset applied.
        weights: also fetch the weights of a hub model.
        every_source: look at all sources (but those on the web) and not only at those that give their rows a size.

    Raises:
        UserError: With everything that is wrong.
        MachineryError: An object store that holds the manifest or sources does not answer.
    """
    plan, model = read_plan(manifest_path, settings, weights, look_at_sources=every_source)
    measuring = Measuring(loading_from(plan, settings.allow_http))
    plan, cache = size_rows(plan, model, np.arange(len(plan.manifest)), SizeCache(), measuring)
    return with_every_source(plan, cache, measuring) if every_source else plan, model
