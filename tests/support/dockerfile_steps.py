"""Runs the steps of a Dockerfile in a Debian root in place of its images, without a container builder.

    python dockerfile_steps.py DOCKERFILE CONTEXT BARE_ROOT WORK [STAGE ...]

BARE_ROOT is what `debootstrap --variant=minbase` makes; each stage works in a copy of it below WORK, named by the
stage (`wheel`, or its number). STAGE: only these. Needs root. What is known of are the instructions that
jobs/cluster/deploy/Dockerfile has; any other one is an error.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

BARE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
SEEN_INSIDE = {
    "/etc/resolv.conf": "/etc/resolv.conf",
    "/etc/hosts": "/etc/hosts",
    CERTIFICATES: "/certificates.crt",
}
"""How this machine reaches package registries: path here -> path in a root."""

PYTHON = "apt-get update && apt-get install -y --no-install-recommends python3-pip"
"""What a bare root lacks of an image of Python."""

PIP_SETTINGS = ("index-url", "extra-index-url", "find-links")

MOUNTS = """
set -eu
mount -t proc proc "$ROOT/proc"
mount --rbind /sys "$ROOT/sys"
mount --rbind /dev "$ROOT/dev"
for pair in $BOUND; do
    path="${pair%:*}" inside="$ROOT${pair#*:}"
    if [ -d "$path" ]; then mkdir -p "$inside"; fi
    if [ -f "$path" ]; then mkdir -p "$(dirname "$inside")"; fi
    if [ -f "$path" ] && [ ! -e "$inside" ]; then touch "$inside"; fi
    mount -o bind,ro "$path" "$inside"
done
exec chroot --userspec="$USERSPEC" "$ROOT" env -i "$@"
"""


@dataclass
class Stage:
    """A root in which instructions are run. folder: of `WORKDIR`. shell: of `RUN`."""

    root: Path
    folder: str = "/"
    user: str = "0"
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script as the stage's user would. Raises CalledProcessError."""
        home = "/root" if self.user == "0" else self.folder
        inside = {
            "PATH": BARE_PATH,
            "HOME": home,
            "PIP_CERT": "/certificates.crt",
            **_pip_settings(),
            **self.variables,
        }
        words = [f"{name}={value}" for name, value in inside.items()]
        words += [*self.shell, f"cd {shlex.quote(self.folder)}\n{script}"]
        environment = {
            "PATH": os.environ["PATH"],
            "ROOT": str(self.root),
            "USERSPEC": f"{self.user}:{self.user}",
            "BOUND": " ".join(f"{path}:{inside}" for path, inside in _bound().items() if os.path.exists(path)),
        }
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", MOUNTS, "sh", *words]
        return subprocess.run(command, env=environment, check=True, text=True, stdout=subprocess.PIPE)

    def path(self, inside: str) -> Path:
        """Where a path inside the root is outside of it."""
        return self.root / os.path.join(self.folder, inside).lstrip("/")


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile: name and the rest, with lines that go on joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def run_dockerfile(dockerfile: Path, context: Path, bare: Path, work: Path, only: tuple[str, ...] = ()) -> Stage:
    """Run the instructions of a Dockerfile; returns the last stage, as it is in the end.

    Args:
        dockerfile: the file.
        context: the folder that `COPY` copies from.
        bare: a Debian root, which stays as it is.
        work: folder for the roots of stages; those that are there already are gone on with.
        only: names of stages to run; empty: all.
    """
    stages: dict[str, Stage] = {}
    current = Stage(work)
    skipped = False
    for name, rest in instructions(dockerfile.read_text()):
        if name == "FROM":
            label = rest.split(" AS ")[1] if " AS " in rest else str(len(stages))
            current = stages[label] = Stage(work / label)
            skipped = bool(only) and label not in only
            if not skipped and not current.root.exists():
                work.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-a", bare, current.root], check=True)
                if "PYTHON" in rest:
                    current.run(PYTHON)
        elif not skipped and name != "ARG":
            _apply(current, name, rest, context, stages)
    return current


def _apply(stage: Stage, name: str, rest: str, context: Path, stages: dict[str, Stage]) -> None:
    if name == "RUN":
        stage.run(rest)
    elif name == "COPY":
        _copy(stage, rest.split(), context, stages)
    elif name == "WORKDIR":
        stage.folder = rest
        stage.path("").mkdir(parents=True, exist_ok=True)
    elif name == "ENV":
        for one in shlex.split(rest):
            key, _, value = one.partition("=")
            stage.variables[key] = value.replace("$PATH", BARE_PATH)
    elif name == "USER":
        stage.user = rest
    elif name == "SHELL":
        stage.shell = tuple(re.findall(r'"([^"]+)"', rest))
    elif name != "CMD":
        raise ValueError(f"{name}: is not known here")


def _copy(stage: Stage, words: list[str], context: Path, stages: dict[str, Stage]) -> None:
    source = context
    if words[0].startswith("--from="):
        source = stages[words.pop(0).removeprefix("--from=")].root
    *names, target = words
    for name in names:
        found, into = source / name.lstrip("/"), stage.path(target)
        if found.is_dir():
            shutil.copytree(
                found, into, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        elif target.endswith("/") or len(names) > 1:
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, into / found.name)
        else:
            shutil.copy(found, into)


def _pip_settings() -> dict[str, str]:
    """Where pip finds packages on this machine, as variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for name in PIP_SETTINGS:
        if values := re.findall(rf"\.{name}='(.*)'", told):
            found[f"PIP_{name.upper().replace('-', '_')}"] = values[-1].replace("\\n", " ")
    return found


def _bound() -> dict[str, str]:
    """What a root sees of this machine: path here -> path in the root. An index names files beside its folder."""
    named = re.findall(r"(?:file://)?(/\S+)", " ".join(_pip_settings().values()))
    paths = [str(Path(*Path(path).parts[:3])) for path in named if os.path.exists(path)]
    return SEEN_INSIDE | {path: path for path in paths if os.path.isdir(path)}


if __name__ == "__main__":
    dockerfile, context, bare, work = map(Path, sys.argv[1:5])
    last = run_dockerfile(dockerfile, context, bare, work, tuple(sys.argv[5:]))
    if len(sys.argv) == 5 or last.root.name in sys.argv[5:]:
        print(last.run("wanbatch --version").stdout)
