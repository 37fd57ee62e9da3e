"""Remedies that test_remedies.py does not follow itself: where they are followed, or why they cannot be.

Each table is by the file of the text, then by a part of the text that tells it from others in that file.
"""

from __future__ import annotations

import remedies_augment
import remedies_engines
import remedies_models

Table = dict[str, dict[str, str]]

TEXTS = "tests/manifests/reading/test_text_files.py"

MAPS = "tests/jobs/worker/test_creativity_maps.py"
STORES = "tests/manifests/storage/test_failing_stores.py"
RETRIES = "tests/manifests/storage/test_store_retries.py"
HUB = "tests/manifests/storage/test_hub.py"
DATASET = "tests/manifests/dataset"
PROBES = "tests/jobs/doctor/test_probes.py"
JUDGED = "tests/jobs/doctor/test_judgements.py::test_all_is_well"
QUALITY = "tests/pipeline/evaluation/test_quality.py"
CAUSES = "tests/faults/test_common_causes.py"
SESSION = "tests/jobs/driver/test_ray_session.py"
REPAIR = f"{DATASET}/test_repair.py"
CARDS = "tests/jobs/worker/test_device_check.py::test_what_is_offered_for_such_a_card_works"
MODELS = "tests/jobs/worker/test_model_files.py"
ADAPTER_COPIES = "tests/jobs/worker/test_adapter_copies.py"
CPU_WORKERS = "tests/jobs/driver/test_cpu_workers.py::test_a_large_model_is_in_the_memory_as_often_as_it_fits"
NODES = "tests/faults/test_nodes.py"
SITE = "tests/jobs/driver/test_site.py"
HEARD = "tests/jobs/cli/test_train_sound.py::test_an_adapter_is_trained_in_both_stages_and_taken_by_a_run"
LOST = f"{REPAIR}::test_the_remedy_of_the_message_costs_the_lost_part_and_no_more"

RESIDENCY = "tests/pipeline/loading/test_residency.py::test_what_the_refusals_offer_makes_room"

ELSEWHERE: Table = {
    "pipeline/loading/residency.py": {
        ", --text-precision fp8": RESIDENCY,
        ", --precision fp8 or int8, fewer --slots": RESIDENCY,
        "alone needs {} GiB with what it works in": RESIDENCY,
        "this needs all of {} on the GPU at once": RESIDENCY,
    },
    **remedies_augment.ELSEWHERE,
    **remedies_engines.ELSEWHERE,
    **remedies_models.ELSEWHERE,
    "pipeline/sound/hearing.py": {
        "hears noise alone": "tests/pipeline/sound/test_nothing_heard.py"
        "::test_noise_alone_needs_a_prompt_or_another_sound",
    },
    "jobs/cluster/local_sources.py": {
        "unless the nodes see them": "tests/jobs/cluster/test_submission.py"
        "::test_sources_that_are_not_here_are_told_of_where_their_folder_is"
    },
    "jobs/cluster/job_entrypoint.py": {
        "cannot import what wanbatch needs": "tests/jobs/cluster/test_job_entrypoint.py"
        "::test_a_python_without_the_packages_is_one_message",
    },
    "jobs/cli/tune_command.py": {"--force": "tests/jobs/tuning/test_tune.py::test_the_command"},
    "jobs/doctor/machine_checks.py": {
        "docker run --shm-size": f"{PROBES}::test_little_shared_memory",
        "export PYTHONUTF8": f"{PROBES}::test_a_locale_and_its_remedy",
        "mend it there": f"{PROBES}::test_settings_that_cannot_be_read",
    },
    "jobs/doctor/model_checks.py": {
        "give another --model": f"{PROBES}::test_a_model_folder_without_weights",
        "export {}": f"{PROBES}::test_a_home_that_cannot_be_written_to",
    },
    "jobs/doctor/output_checks.py": {
        "mend its permissions": f"{PROBES}::test_disks_that_cannot_be_written_to",
        "a new or an empty folder": f"{PROBES}::test_an_empty_folder_and_one_with_files_of_others",
        "wait for it, stop it": f"{PROBES}::test_a_folder_that_another_run_fills",
        "remove files there": f"{PROBES}::test_disks_that_cannot_be_written_to",
        "give another --out": f"{PROBES}::test_what_can_be_no_output_folder",
    },
    "jobs/doctor/ray_checks.py": {
        "or nothing": f"{PROBES}::test_a_long_tmpdir_and_its_remedy",
        "unset RAY_ADDRESS": JUDGED,
    },
    "jobs/driver/cluster_session.py": {
        "the cluster has no tokens": f"{NODES}::test_a_token_for_a_cluster_without_tokens",
        "put the cluster's own token": f"{NODES}::test_a_token_that_the_cluster_does_not_take",
        "no worker found a place": f"{NODES}::test_nodes_that_leave_and_join_and_a_driver_that_is_killed",
    },
    "jobs/driver/site.py": {
        "has no effect without a cluster": f"{SITE}::test_flags_that_have_no_effect_are_told",
        "has GPUs of several kinds": f"{SITE}::test_all_kinds_or_a_chosen_one",
    },
    "jobs/planning/few_step.py": {
        "seems to be made for": (
            "tests/jobs/planning/test_few_step.py::test_a_file_of_others_that_is_for_few_steps_by_its_name"
        ),
    },
    "jobs/planning/model_copies.py": {
        "there is no model folder at this address": f"{MODELS}::test_a_model_in_a_store",
        "run the same command again": f"{MODELS}::test_a_store_that_does_not_answer",
        "give --model-cache a folder": f"{MODELS}::test_a_disk_without_room",
        "only hub models have revisions": f"{MODELS}::test_a_model_in_a_store",
    },
    "jobs/planning/adapter_copies.py": {
        "set XDG_CACHE_HOME to a folder": f"{ADAPTER_COPIES}::test_a_disk_without_room",
        "have revisions: drop": f"{ADAPTER_COPIES}::test_a_store_without_it_and_one_that_does_not_answer",
        "check the address": f"{ADAPTER_COPIES}::test_one_on_the_web_that_cannot_be_had",
        "run the same command again": f"{ADAPTER_COPIES}::test_one_on_the_web_that_cannot_be_had",
    },
    "jobs/reporting/report/failures.py": {
        "wanbatch retry": "tests/jobs/driver/test_retry.py::test_retry_of_one_class_leaves_the_others",
    },
    "jobs/schedule/decisions.py": {
        "some rows could not be made": "tests/jobs/driver/test_retry.py::test_retry_of_one_class_leaves_the_others",
    },
    "jobs/training/sound.py": {
        "must end in .safetensors": HEARD,
        "no row has a sound": HEARD,
    },
    "jobs/worker/device_check.py": {
        "for which this build of PyTorch has no code": CARDS,
        "has no FP8": CARDS,
        "has no INT8": CARDS,
        "GiB of memory": CARDS,
        "other kinds make other last bits": CARDS,
    },
    "jobs/worker/model_files.py": {
        "is not the one that this command found": f"{MODELS}::test_another_model_under_the_same_name",
        "there is no model folder": f"{MODELS}::test_a_folder_that_only_the_driver_has",
    },
    "jobs/driver/cpu_workers.py": {"a new folder may have --threads": CPU_WORKERS},
    "jobs/driver/circuit_breaker.py": {
        "images failed alike": f"{CAUSES}::test_a_bug_that_fails_every_row_quarantines_nobody",
    },
    "jobs/driver/ray_folder.py": {
        "no folder for Ray": "tests/jobs/driver/test_ray_folder.py::test_the_remedy_of_the_message_works",
    },
    "jobs/driver/ray_session.py": {
        "is not used: the run has a Ray of its own": "tests/jobs/driver/test_cluster_session.py"
        "::test_the_address_of_the_cluster",
        "cannot reach each other": f"{SESSION}::test_without_a_loopback_address",
        "export PYTHONUTF8": f"{SESSION}::test_a_folder_outside_ascii_in_an_ascii_locale",
        "start from another folder": f"{SESSION}::test_names_that_ray_cannot_take",
    },
    "jobs/reporting/text_summary.py": {
        "finds what is damaged": f"{REPAIR}::test_damaged_parts_are_kept_aside",
        "run the same command again": "tests/jobs/driver/test_killed_command.py::test_a_signal_to_the_command",
    },
    "jobs/tuning/tune.py": {
        "use another budget": "tests/jobs/tuning/test_tune.py::test_the_judge_is_for_the_small_model",
    },
    "manifests/dataset/checks.py": {
        "`wanbatch check {}` writes": "tests/jobs/augment/test_checking.py"
        "::test_checks_that_are_damaged_are_named_and_written_again"
    },
    "manifests/dataset/card.py": {
        "load_dataset": f"{DATASET}/test_dataset_cache.py::test_what_the_card_shows_loads_the_images"
    },
    "manifests/dataset/commit_log.py": {
        "restore it, or {}": LOST,
        "and then the command of its run": LOST,
    },
    "manifests/dataset/disk_errors.py": {"make room there": "tests/faults/test_disk.py::test_a_full_disk"},
    "jobs/driver/interruption.py": {
        "made and kept": "tests/jobs/driver/test_interruption.py::test_two_signals_drop_what_is_in_hand_and_say_so",
    },
    "jobs/driver/planned_folder.py": {
        "torch sees no GPU": "tests/jobs/cli/test_planned_folders.py::test_a_gpu_that_this_machine_has_not",
    },
    "manifests/dataset/recovery.py": {"and no commits in": f"{REPAIR}::test_lost_commits"},
    "manifests/dataset/repair.py": {
        "it may be whole": f"{REPAIR}::test_a_part_that_cannot_be_read_is_not_given_up",
    },
    "manifests/sources/store_retries.py": {
        "the store of the sources": f"{RETRIES}::test_a_store_that_stays_away_ends_the_run_and_costs_no_row",
    },
    "manifests/storage/fsspec_io.py": {
        "credentials are missing": f"{RETRIES}::test_missing_credentials_are_no_row_s_fault",
        "needs a package": f"{STORES}::test_s3fs_that_is_not_installed",
    },
    "manifests/storage/hub.py": {
        "write it like": f"{HUB}::test_there_is_no_such_thing",
        "HF_HUB_OFFLINE": f"{HUB}::test_offline_it_says_what_to_do",
    },
    "manifests/storage/lease.py": {
        "ignores conditional writes": f"{STORES}::test_a_store_without_conditional_writes_is_refused",
    },
    "pipeline/evaluation/lpips.py": {
        "does not hold": f"{QUALITY}::test_a_weight_file_of_something_else_is_one_clear_error",
    },
    "pipeline/loading/runtime.py": {
        "set HOME": "tests/jobs/config/test_hardware.py::test_a_user_without_a_home_and_the_remedies",
    },
    "pipeline/loading/scheduler.py": {
        "the nearest": "tests/pipeline/loading/test_scheduler.py"
        "::test_what_is_not_reproduced_is_named_with_file_field_value_and_flag",
    },
    "pipeline/loading/token_counter.py": {
        "restore the model": "tests/pipeline/loading/test_token_counter.py"
        "::test_a_model_without_a_tokenizer_file_and_one_with_a_damaged_one",
    },
    "manifests/storage/urls.py": {
        "such addresses": f"{STORES}::test_other_schemes",
        "is not a usable address": f"{STORES}::test_addresses_that_are_none",
    },
    "jobs/worker/creativity_maps.py": {
        "give a map of the same shape": f"{MAPS}::test_a_map_of_another_shape_fails_its_row",
    },
    "manifests/reading/json_mistakes.py": {
        'python3 -c "': f"{TEXTS}::test_it_comes_with_a_command_that_makes_rows_of_it",
        "jq -c .": f"{TEXTS}::test_several_objects_on_several_lines",
    },
    "manifests/reading/text_lines.py": {
        "is UTF-16 text": f"{TEXTS}::test_utf16_with_and_without_a_mark",
        "as Windows text (cp1252)": f"{TEXTS}::test_windows_text",
        "is {}: rename it, mv": f"{TEXTS}::test_under_another_name",
        "rename it, mv": f"{TEXTS}::test_a_name_that_promises_more",
    },
}
"""Followed by another test, which goes on to do what the message says: its file and name."""

NO_GPU = "there is no GPU here whose driver, memory or torch could be wrong"
CONTAINER = "it is done to the container or the machine from outside"
HANG = "what hangs, and why, is not known to the check"
FETCHED = "it needs the network"
ONE_HOST = "there is one host"

NOT_HERE: Table = {
    **remedies_engines.NOT_HERE,
    **remedies_models.NOT_HERE,
    "pipeline/sound/birdnet.py": {"pip install 'wanbatch[birdnet]'": FETCHED},
    "pipeline/sound/config.py": {"pip install 'wanbatch[birdnet]'": FETCHED},
    "jobs/augment/writing.py": {"gives no rows": "which of the three leaves none is not known"},
    "pipeline/models/int8.py": {"precision int8": NO_GPU},
    "engines/onnx_export.py": {
        "export it again": "why an export is broken is not known",
        "install wanbatch[onnx-export]": FETCHED,
    },
    "engines/verify.py": {"install wanbatch[onnx]": FETCHED},
    "manifests/dataset/content_credentials.py": {"pip install 'wanbatch[c2pa]'": FETCHED},
    "manifests/sharing/hub_licences.py": {
        "give one of its names": "tests/manifests/sharing/test_push.py"
        "::test_a_licence_that_the_hub_does_not_know_is_warned_of",
    },
    "manifests/sharing/writers.py": {"pip install 'wanbatch[lance]'": FETCHED},
    "jobs/augment/user_models.py": {"pip install 'wanbatch[onnx]'": FETCHED},
    "jobs/cluster/job_client.py": {
        "pip install 'wanbatch[cluster]'": FETCHED,
        "the cluster takes no jobs": "why an agent of Ray does not answer is not known",
    },
    "jobs/cluster/job_entrypoint.py": {"wanbatch needs {}: use another image": "there is one Python on this machine"},
    "jobs/cluster/rayjob.py": {"kubectl create": "there is no Kubernetes on this machine"},
    "jobs/cluster/slurm.py": {"sbatch FILE": "there is no Slurm on this machine"},
    "jobs/cluster/submission.py": {"their own credentials where you can": "clouds give roles to their machines"},
    "jobs/driver/cluster_session.py": {
        "cannot be used: {}; run the same command again": "why Ray failed is not known",
        "a node was lost at the start": "why Ray failed is not known",
        "no Ray cluster answers": "whether the head, the port or a firewall is at fault is not known",
        "check the port (6379 for HOST:PORT": "whether the port, a version or a token is at fault is not known",
        "lack the package {}": f"{ONE_HOST}; tests/jobs/cluster/test_submit_on_cluster.py brings its own package",
        "have wanbatch {}, and this process": f"{ONE_HOST}, and one wanbatch on it",
        "pip install 'ray[client]'": FETCHED,
        "--address auto: no Ray runs": "another test may have a Ray on this machine, which is found then",
        "this machine is no node": ONE_HOST,
    },
    "jobs/schedule/service.py": {"cannot be locked": "disks here can lock"},
    "jobs/schedule/ticks.py": {"pip install tzdata": FETCHED},
    "jobs/doctor/check.py": {
        "run `wanbatch doctor` again": HANG,
        "mend what it names": "it names something else each time",
    },
    "jobs/doctor/machine_checks.py": {
        "give the container": CONTAINER,
        "end other programs": CONTAINER,
        "mount -o remount": CONTAINER,
        "pip install tzdata": FETCHED,
    },
    "jobs/doctor/model_checks.py": {"hf download": FETCHED},
    "jobs/doctor/output_checks.py": {
        "remove it: {}": "the folder in question cannot be removed here either",
        "check the address": "which of the rights is missing, a store does not say",
    },
    "jobs/doctor/registry.py": {
        "a driver or GPU hangs": HANG,
        "TMPDIR may be on a disk": HANG,
        "let no firewall": HANG,
        "the home folder may be": HANG,
        "the hub or the model": HANG,
        "the disk or the store": HANG,
    },
    "jobs/doctor/software_checks.py": {
        "pip install the folder": FETCHED,
        "pip install {}": FETCHED,
        "pip install --force-reinstall torch": FETCHED,
        "update the driver": NO_GPU,
        "install a torch": NO_GPU,
        "with --compile never": NO_GPU,
        "end what else uses": NO_GPU,
        "unset CUDA_VISIBLE_DEVICES": NO_GPU,
        "a machine with a GPU": NO_GPU,
        "pip install triton": NO_GPU,
    },
    "jobs/driver/batch_size.py": {"choose a smaller size": NO_GPU},
    "jobs/driver/ray_errors.py": {"Ray failed": "why Ray failed is not known; tests/faults/ kill it in many ways"},
    "jobs/driver/ray_health.py": {"Ray is gone": "why Ray failed is not known; tests/faults/ kill it in many ways"},
    "jobs/driver/ray_session.py": {
        "raise its limit": CONTAINER,
        "Ray did not start": "why Ray failed is not known; the doctor's checks have remedies of their own",
    },
    "jobs/driver/retry_policy.py": {"check the disk": "the disk, or a second host, is at fault"},
    "jobs/tuning/trials.py": {"memory ran out": NO_GPU},
    "jobs/worker/actor.py": {
        "with --compile never": NO_GPU,
        "share the folder of the sources": "there is one host",
    },
    "jobs/worker/requests.py": {"retry the row": "the source changes between two looks of one run"},
    "pipeline/evaluation/lpips.py": {"install wanbatch[tune]": FETCHED, "could not be fetched": FETCHED},
    "pipeline/evaluation/quality.py": {"install wanbatch[tune]": FETCHED},
    "pipeline/loading/offload.py": {"no room for the part": NO_GPU},
    "pipeline/models/dit.py": {"is not supported": "there is no model of this kind here"},
    "pipeline/models/fp8.py": {"--precision bf16": NO_GPU, "precision fp8": NO_GPU},
    "manifests/reading/arrow_files.py": {
        "flatten_indices": "today's datasets writes no such folder, and reads another thing in it",
    },
    "manifests/dataset/commit_log.py": {
        "another version": "the other version is not on this machine",
        "newer versions": "there is none yet; tests/manifests/dataset/test_formats.py has what one would do",
    },
    "manifests/dataset/publisher.py": {
        "attempts in a row": "it says where to look; which of them it is, is not known"
    },
    "manifests/dataset/repair.py": {"commits were found at first": "the disk or the mount lies between two readings"},
    "manifests/storage/parquet_limits.py": {"has other columns than": "nothing here writes such a file"},
    "manifests/dataset/visibility.py": {
        "share the folder with every host": "there is one host; tests/faults/test_shared_folders.py has the message",
        "is not read as its worker wrote it": "there is one host, and its disk is well",
    },
}
"""Not to be followed in a test, with the reason."""
