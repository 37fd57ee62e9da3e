"""Remedies of engines, for `remedies_elsewhere.py`."""

from __future__ import annotations

RUN = "tests/engines/test_runtime.py"
STORE = "tests/engines/test_store.py"
STORES = "tests/jobs/planning/test_engine_stores.py"
AOT = "tests/engines/test_aot.py"
EXPORTS = "tests/engines/test_exports.py"
FLOAT16 = "tests/engines/test_fp16_exports.py"
COMMAND = "tests/engines/test_command.py::test_what_is_offered_instead_is_taken"
PRECISION = "tests/engines/test_command.py::test_a_precision_of_the_settings_that_no_engine_has"
REFUSED = f"{RUN}::test_what_cannot_be_built_is_refused_before_a_model_is_loaded"
REQUIRED = f"{RUN}::test_engines_that_are_required_and_missing_are_an_error"
SIZES = f"{RUN}::test_a_run_tells_its_workers_and_its_user"
WORKER = f"{RUN}::test_a_worker_takes_what_the_driver_chose_or_refuses"
NO_STORE = f"{STORE}::test_a_store_that_is_none"
NO_CARD = "needs a GPU"
TO_INSTALL = "an index would have to be asked, and the library is large"

ELSEWHERE = {
    "jobs/cli/engines_commands.py": {
        "must be some of": COMMAND,
        "must be one of": COMMAND,
        "--slots auto": COMMAND,
        "engines are not built in": PRECISION,
    },
    "jobs/driver/engine_choice.py": {
        "build them with": SIZES,
        "it has: {}. Build one": REQUIRED,
        "{}: {}, or leave it out": SIZES,
        "needs engines, too": REQUIRED,
    },
    "jobs/worker/engine_use.py": {
        "it finds other engines": WORKER,
        "no engine for its device": REQUIRED,
        "build it again on this host": WORKER,
    },
    "engines/building.py": {
        "one size each": REFUSED,
        "sides must be multiples": REFUSED,
        "aot builds for": REFUSED,
        "engines of aot are built in": COMMAND,
        "there is no other precision": f"{FLOAT16}::test_what_float16_cannot_hold_has_a_remedy_that_is_taken",
        "use --precision {}": f"{FLOAT16}::test_what_float16_cannot_hold_has_a_remedy_that_is_taken",
        "use --precision fp32": f"{FLOAT16}::test_tensorrt_on_turing_has_fp32_instead",
        "our own kernels": REFUSED,
    },
    "engines/aot_forms.py": {
        "run without --engines": f"{AOT}::test_a_run_with_engines_makes_the_pictures_of_a_run_without",
    },
    "engines/store.py": {
        "is not a folder": NO_STORE,
        "no such store": NO_STORE,
        "cannot be made": NO_STORE,
    },
    "engines/stored_engine.py": {
        "build it again with": f"{RUN}::test_an_engine_that_was_changed_stops_a_run_and_is_built_again",
    },
    "jobs/planning/engine_stores.py": {
        "no such store": f"{STORES}::test_an_address_without_a_store",
        "are not kept on the hub": f"{STORES}::test_an_address_without_a_store",
        "make the bucket": f"{STORES}::test_an_address_without_a_store",
        "not known to be absent": f"{STORES}::test_a_store_that_does_not_answer_is_not_empty",
        "set XDG_CACHE_HOME to a folder on": f"{STORES}::test_a_disk_without_room",
        "set XDG_CACHE_HOME to a folder of yours": f"{STORES}::test_a_host_without_a_place_for_copies",
        "engines cannot be written there": f"{STORES}::test_an_upload_that_fails_leaves_no_engine",
    },
    "engines/tensorrt.py": {
        ", or leave {} out of --arch": f"{FLOAT16}::test_rtx_refuses_others_for_turing_and_so_do_we_before",
        "in fp16 alone": f"{FLOAT16}::test_rtx_refuses_others_for_turing_and_so_do_we_before",
        "has no FP8": "tests/engines/test_fp8_exports.py::test_architectures_without_fp8_are_named",
        "builds for {}: name some of these": f"{EXPORTS}::test_architectures_that_there_are_no_plans_for",
    },
    "engines/verifying.py": {"is of another model": f"{RUN}::test_verifying_and_pruning"},
}

NOT_HERE = {
    "jobs/worker/engine_use.py": {"the whole model on the GPU": NO_CARD},
    "engines/tensorrt.py": {
        "install wanbatch[": TO_INSTALL,
        "install the package tensorrt": TO_INSTALL,
        "its library is not installed": TO_INSTALL,
        "TensorRT builds for the GPU": NO_CARD,
        "there is no GPU here": NO_CARD,
    },
}
