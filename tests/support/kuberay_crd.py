"""Fetches KubeRay's own definition of a RayJob (its CRD) of some releases, which tests then check RayJobs by.

    python tests/support/kuberay_crd.py VERSION ... [--releases URL]

Each becomes `tests/data/kuberay/ray.io_rayjobs-VERSION.yaml`, as the release has it, below lines that say where it is
from. Needs a network that reaches GitHub. `make kuberay-crd KUBERAY=VERSION` does it.
"""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from crd_schema import KIND

FOLDER = Path(__file__).parents[1] / "data/kuberay"
RELEASES = "https://raw.githubusercontent.com/ray-project/kuberay"
PATH = "ray-operator/config/crd/bases/ray.io_rayjobs.yaml"
STEM = "ray.io_rayjobs"
SECONDS = 30
HEAD = "# KubeRay {version}, {url}\n# Part of KubeRay, under the Apache License 2.0; fetched by `make kuberay-crd`.\n"


def definitions(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """The definitions that were fetched, by their versions."""
    files = sorted(folder.glob(f"{STEM}-*.yaml"))
    return {path.stem.removeprefix(f"{STEM}-"): yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}


def fetch(version: str, folder: Path, releases: str) -> Path:
    """Fetch the definition of a release.

    Args:
        version: like `1.4.0`.
        folder: for the file.
        releases: URL of a folder that has one for each release's tag.

    Raises:
        SystemExit: It is not to be had, or is no definition of a RayJob.
    """
    url = f"{releases}/v{version}/{PATH}"
    target = folder / f"{STEM}-{version}.yaml"
    by_hand = f"fetch it where there is a network, and put it into {target}"
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url}: the server answers {error.code}: is {version} a release of KubeRay?") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise SystemExit(f"{url}: cannot be reached from this machine ({reason}): {by_hand}") from error
    if not _is_definition(text):
        raise SystemExit(f"{url}: what answers there is no {KIND} of RayJobs: {by_hand}")
    target.write_text(HEAD.format(version=version, url=url) + text, encoding="utf-8")
    return target


def _is_definition(text: str) -> bool:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    if not isinstance(content, dict) or content.get("kind") != KIND:
        return False
    return content.get("spec", {}).get("names", {}).get("kind") == "RayJob"


def main(arguments: list[str] | None = None) -> None:
    """Fetch what is named, and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", nargs="+", help="of a release of KubeRay, like 1.4.0")
    parser.add_argument("--releases", default=RELEASES, help="where releases are; default: %(default)s")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for the files; default: %(default)s")
    given = parser.parse_args(arguments)
    for version in given.version:
        print(fetch(version.removeprefix("v"), given.folder, given.releases.rstrip("/")))


if __name__ == "__main__":
    main(sys.argv[1:])
