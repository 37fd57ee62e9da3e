"""`wanbatch submit --emit slurm`: a batch script that runs a manifest on Ray on the nodes of an allocation."""

from __future__ import annotations

import os
import shlex

from wanbatch import __version__
from wanbatch.jobs.cluster.job_state import MACHINERY
from wanbatch.jobs.cluster.submission import Submission

PORTS = "$((20000 + SLURM_JOB_ID % 10000))"
"""Of Ray's head: another one for each job, since several may be on one node."""

_SCRIPT = """#!/bin/bash
# Written by `wanbatch submit --emit slurm`, wanbatch {version}. Send it with `sbatch FILE`; the same again goes on
# with what is left. Partition, account and time limit are your site's: add them here or give them to sbatch.
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
{gpus}#SBATCH --exclusive
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

{environment}
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
address="${{hosts%%$'\\n'*}}:{port}"

# Whoever shares the network of the nodes cannot use this job's Ray without its token.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$({python} -c 'import secrets; print(secrets.token_hex(32))')
RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
export RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT
{variables}
# The command runs on the first node, which is this one, as soon as Ray is there; nodes that come later get workers,
# too. Where Ray does not start, `ray symmetric-run` ends with 0: the file that the command removes tells.
waiting=$(mktemp)
{quoted}srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=0 \\
  ray symmetric-run --address "$address" --min-nodes 1 -- \\
  bash -c 'rm -f "$0"; exec "$@"' "$waiting" \\
  {command}
if [ -e "$waiting" ]; then
  rm "$waiting"
  echo "wanbatch: Ray did not start on $(hostname), so that nothing was run: send the job again" >&2
  exit {machinery}
fi
"""
_ENVIRONMENT = (
    "# The environment that has wanbatch, on every node: `module load ...`, or `source /shared/venv/bin/activate`.\n"
)
_OF_PYTHON = """# The environment that has wanbatch, which every node must see under this name (--python).
PATH={folder}:$PATH
export PATH
"""
_QUOTED = "# shellcheck disable=SC2016  # texts of the command are no expressions\n"


def slurm_script(submission: Submission, nodes: int, gpus_per_node: int, python: str = "python") -> str:
    """Return the batch script.

    Args:
        submission: what is asked.
        nodes: of the allocation.
        gpus_per_node: 0: it is run on CPUs.
        python: the interpreter that has wanbatch, as the nodes' shell finds it; the commands `ray` and `wanbatch` of
            a path are those beside it.
    """
    folder = os.path.dirname(python)
    variables = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in submission.variables.items())
    return _SCRIPT.format(
        version=__version__,
        name=f"wanbatch-{submission.digest}",
        nodes=nodes,
        gpus=f"#SBATCH --gpus-per-node={gpus_per_node}\n" if gpus_per_node else "",
        port=PORTS,
        environment=_OF_PYTHON.format(folder=shlex.quote(folder)) if folder else _ENVIRONMENT,
        python=shlex.quote(python),
        variables=variables,
        quoted=_QUOTED,
        machinery=MACHINERY,
        command=shlex.join((*_wanbatch(python), *submission.command, *submission.on_this_cluster)),
    )


def _wanbatch(python: str) -> tuple[str, ...]:
    """The words that start wanbatch: by its own command, but for an interpreter of another name."""
    return ("wanbatch",) if python == "python" else (python, "-m", "wanbatch.jobs.cli")
