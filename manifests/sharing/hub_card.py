"""The card of a dataset on the Hugging Face Hub: its README.md, with what the Hub's search and viewers read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from wanbatch.counting import number_of
from wanbatch.manifests.dataset.card import NAME, code, inline
from wanbatch.manifests.sharing.contents import Contents
from wanbatch.manifests.sharing.facts import Facts
from wanbatch.manifests.storage.backend import open_backend

_SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"),
)  # fmt: skip
_SECTIONS = re.compile(r"^## (?:Settings|Columns)$.*", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Licences:
    """What a dataset may be used for.

    Attributes:
        license: of the dataset, as the Hub names licences.
        source_license: of the pictures that it was made from, in any words; None: it was made from none.
    """

    license: str
    source_license: str | None = None


def hub_card(repository: str, contents: Contents, facts: Facts, licences: Licences, bytes: int) -> str:
    """The text of the card.

    Args:
        repository: `OWNER/NAME`.
        contents: what is published.
        facts: what is known of it.
        licences: what it may be used for.
        bytes: of all its files.
    """
    body = "\n\n".join(
        [*_beginning(repository, contents, facts), _settings_and_columns(contents), *_ending(facts, licences)]
    )
    card = DatasetCard(
        f"---\n{_front_matter(repository, contents, facts, licences, bytes).to_yaml()}\n---\n\n{body}\n"
    )
    return str(card)


def size_category(images: int) -> str:
    """As the Hub's search names it."""
    return next((name for limit, name in _SIZES if images < limit), "10B<n<100B")


def _front_matter(
    repository: str, contents: Contents, facts: Facts, licences: Licences, bytes: int
) -> DatasetCardData:
    split = {"name": "train", "num_bytes": bytes, "num_examples": contents.images}
    return DatasetCardData(
        pretty_name=repository.partition("/")[2],
        license=licences.license,
        annotations_creators=["machine-generated"],
        size_categories=[size_category(contents.images)],
        source_datasets=["extended" if facts.with_sources else "original"],
        task_categories=["text-to-image", *(["image-to-image"] if facts.with_sources else [])],
        tags=["synthetic", "wanbatch"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
        dataset_info={"splits": [split], "download_size": bytes, "dataset_size": bytes},
    )


def _beginning(repository: str, contents: Contents, facts: Facts) -> list[str]:
    model, revision = facts.fingerprint.get("model"), facts.fingerprint.get("revision")
    made_by = code(model) + (f" at revision {code(revision)}" if revision else "")
    return [
        f"# {inline(repository.partition('/')[2])}",
        f"{number_of(contents.images, 'images')}, made from a manifest by wanbatch with {made_by}.",
        f'```python\nfrom datasets import load_dataset\n\nimages = load_dataset("{repository}", split="train")\n```',
    ]


def _settings_and_columns(contents: Contents) -> str:
    """Those sections of the output folder's own card."""
    try:
        own = open_backend(contents.folder, reading=True).read(NAME).decode()
    except FileNotFoundError:
        return "## Columns\n\nOne row an image."
    found = _SECTIONS.search(own)
    return found[0].strip() if found else "## Columns\n\nOne row an image."


def _ending(facts: Facts, licences: Licences) -> list[str]:
    marks = "Every picture file says in XMP that a model made it (`DigitalSourceType`), unless a tool removed that."
    if facts.synthetic is not None:
        marks += f" `is_synthetic` is true for {facts.synthetic} of the images."
    sources = "No image was made from another one."
    if facts.with_sources:
        sources = (
            f"{number_of(facts.with_sources, 'images', 'was', 'were')} made from "
            f"{number_of(facts.sources, 'other pictures')}, which `sources` names by SHA-256. Licence of these "
            f"pictures: {inline(licences.source_license or '')}."
        )
    checks = "No checks of the images were run before they were published."
    if facts.rejected is not None:
        checks = (
            _counts("check", "images that it rejects", facts.rejected) or "The checks that were run reject no image."
        )
    failures = _counts("error class", "rows without an image", facts.failures) or "An image was made of every row."
    return [
        f"## Origin\n\n{marks}",
        f"## Sources\n\n{sources}",
        f"## Checks\n\n{checks}",
        f"## Failures\n\n{failures}",
        f"## Licence\n\nThe dataset: {code(licences.license)}. The licence of the model may ask for more.",
    ]


def _counts(left: str, right: str, counts: Mapping[str, Any]) -> str:
    if not counts:
        return ""
    return "\n".join(
        [f"| {left} | {right} |", "|---|---|", *(f"| {code(name)} | {n} |" for name, n in counts.items())]
    )
