"""Remedies of models' weights and of where they are kept, for `remedies_elsewhere.py`."""

from __future__ import annotations

LOADING = "tests/pipeline/loading"

ELSEWHERE = {
    "jobs/config/hardware.py": {
        "--model {}": "tests/jobs/cli/test_convert.py::test_a_gpu_without_fp8_is_told_to_use_the_source",
    },
    "pipeline/loading/converting.py": {
        "make room, or choose another disk": f"{LOADING}/test_converting.py::test_a_full_disk_leaves_nothing",
    },
    "pipeline/loading/weights.py": {
        "take the weights": f"{LOADING}/test_weights.py::test_weights_of_parts_that_the_model_lacks_are_refused",
    },
    "pipeline/loading/weight_files.py": {
        "became shorter": f"{LOADING}/test_weights.py::test_a_file_that_becomes_shorter_is_no_model",
    },
}
NOT_HERE = {
    "jobs/cli/train_command.py": {"a sweep has one trial": "a click usage error: the flag is dropped"},
    "pipeline/loading/converting.py": {
        "of a kind that only transformers reads": "nothing is to be done: the model runs as it is",
        "cannot be made": "a folder without permission, which a test as root cannot make",
        "look after the disk": "a broken disk",
    },
    "pipeline/loading/single_frame.py": {"this runs the model's own text encoder": "trainings and benchmarks alone"},
    "pipeline/loading/weight_files.py": {"which is not read": "such files are not published"},
    "pipeline/loading/weights.py": {
        "was converted for runs alone": "no command loads such a model for anything else",
        "is of a kind that only transformers runs": "such models are not published; the setting is dropped",
    },
}
