"""Texts that only look like remedies, with what they are; as the tables of `remedies_elsewhere.py`."""

from __future__ import annotations

NO_REMEDIES: dict[str, dict[str, str]] = {
    "jobs/benchmark/qualification_page.py": {"start: loaded in": "what was measured"},
    "jobs/augment/measuring.py": {"nothing to test on": "what is wrong"},
    "jobs/cluster/slurm.py": {"#SBATCH --gpus-per-node": "a line of a script", "export {}": "a line of a script"},
    "jobs/schedule/decisions.py": {"run late": "what became of a run"},
    "jobs/schedule/definition.py": {
        "any manifest that": "what a key means",
        "a recipe of": "what a key means",
        "ticks that were missed": "what a key means",
        "make rows of a manifest again": "what a key means",
        "to which a tick submits": "what a key means",
    },
    "jobs/schedule/export_cron.py": {"fields are read by the clock": "what a file says of itself"},
    "jobs/schedule/ledger.py": {
        "CREATE TABLE": "words of SQL",
        "INSERT OR REPLACE": "words of SQL",
        "DELETE FROM": "words of SQL",
    },
    "manifests/sharing/hub_card.py": {"load_dataset": "an example; tests/manifests/sharing/ follow it"},
    "jobs/cli/train_command.py": {"Use it: wanbatch run": "what comes next", " --sound-model": "what comes next"},
    "jobs/doctor/machine_checks.py": {"refuses every timezone": "what is wrong"},
    "jobs/tuning/settings_file.py": {"Written by": "the first line of a file"},
    "manifests/column_types.py": {
        "(keep the source)": "a rule of a column",
        "keep or respace": "a rule of a column",
    },
    "manifests/column_table.py": {
        "share in the blend": "what a column means",
        "the adapters (LoRA) that were in effect": "what a column means",
        "a row that starts below 1": "what a column means",
        "the run's setting": "a default of a column",
        "keep a schedule's levels": "what a column means",
    },
}
