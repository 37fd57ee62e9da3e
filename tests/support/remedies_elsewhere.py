"""Remedies that test_remedies.py does not follow itself: where they are followed, or why they cannot be.

Each table is by the file of the text, then by a part of the text that tells it from others in that file.
"""

from __future__ import annotations

Table = dict[str, dict[str, str]]

TEXTS = "tests/manifests/reading/test_text_files.py"

STORES = "tests/manifests/storage/test_failing_stores.py"
RETRIES = "tests/manifests/storage/test_store_retries.py"
HUB = "tests/manifests/storage/test_hub.py"
DATASET = "tests/manifests/dataset"
REPAIR = f"{DATASET}/test_repair.py"
LOST = f"{REPAIR}::test_the_remedy_of_the_message_costs_the_lost_part_and_no_more"

ELSEWHERE: Table = {
    "manifests/dataset/card.py": {
        "load_dataset": f"{DATASET}/test_dataset_cache.py::test_what_the_card_shows_loads_the_images"
    },
    "manifests/dataset/commit_log.py": {
        "restore it, or {}": LOST,
        "and then the command of its run": LOST,
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
    "manifests/storage/urls.py": {
        "such addresses": f"{STORES}::test_other_schemes",
        "is not a usable address": f"{STORES}::test_addresses_that_are_none",
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

NOT_HERE: Table = {
    "manifests/reading/arrow_files.py": {
        "flatten_indices": "today's datasets writes no such folder, and reads another thing in it",
    },
    "manifests/dataset/commit_log.py": {"another version": "the other version is not on this machine"},
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

NO_REMEDIES: Table = {
    "manifests/column_types.py": {
        "(keep the source)": "a rule of a column",
        "keep or respace": "a rule of a column",
    },
    "manifests/columns.py": {
        "share in the blend": "what a column means",
        "a row that starts below 1": "what a column means",
        "the run's setting": "a default of a column",
        "keep a schedule's levels": "what a column means",
    },
}
"""Texts that only look like remedies, with what they are."""

NOT_YET: dict[str, str] = {
    "jobs/": "",
    "manifests/dataset/content_credentials.py": "",
    "manifests/dataset/mark_reading.py": "",
    "manifests/sharing/": "",
    "pipeline/": "",
}
"""Folders and files whose remedies are not followed yet."""
