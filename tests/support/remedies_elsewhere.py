"""Remedies that test_remedies.py does not follow itself: where they are followed, or why they cannot be.

Each table is by the file of the text, then by a part of the text that tells it from others in that file.
"""

from __future__ import annotations

Table = dict[str, dict[str, str]]

TEXTS = "tests/manifests/reading/test_text_files.py"

ELSEWHERE: Table = {
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
    "manifests/dataset/": "",
    "manifests/sharing/": "",
    "manifests/sources/": "",
    "manifests/storage/": "",
    "pipeline/": "",
}
"""Folders and files whose remedies are not followed yet."""
