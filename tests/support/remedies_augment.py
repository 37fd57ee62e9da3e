"""Remedies of recipes, checks and measuring: the tests that follow them; see `remedies_elsewhere.py`."""

from __future__ import annotations

CHECKED = "tests/jobs/augment/test_user_models.py"
LIKE = "tests/jobs/augment/test_embeddings.py"

OUTSIDE = (
    "tests/jobs/augment/test_augment_command.py::test_nothing_is_written_into_the_dataset_which_would_be_read_with_it"
)

ELSEWHERE: dict[str, dict[str, str]] = {
    "jobs/augment/augment.py": {"name a file elsewhere": OUTSIDE},
    "jobs/augment/found.py": {
        "is inside the folder of a class": "tests/jobs/augment/test_datasets.py"
        "::test_classes_inside_classes_are_told_and_a_table_names_them_otherwise",
    },
    "jobs/augment/dataset.py": {
        "let it be read": "tests/jobs/augment/test_recipe_file.py"
        "::test_a_folder_of_a_dataset_that_cannot_be_read_is_named",
    },
    "jobs/augment/embeddings.py": {
        "there is no such model": f"{LIKE}::test_an_onnx_file_says_which_pictures_are_like_the_originals",
        "is no ONNX file": f"{LIKE}::test_a_folder_of_transformers_gives_embeddings",
    },
    "jobs/augment/model_answers.py": {
        "correct the model, or leave out {}": "tests/jobs/augment/test_model_answers.py"
        "::test_what_is_wrong_is_said_in_one_line_with_the_picture_and_the_remedies_work",
    },
    "jobs/augment/selection.py": {
        "in none: if {} is a class": "tests/jobs/augment/test_datasets.py"
        "::test_names_of_pictures_are_no_splits_and_blends_without_splits_are_read",
    },
    "jobs/cli/augment_command.py": {
        "name a folder elsewhere": OUTSIDE,
        "--embeddings is for --measure": "tests/jobs/augment/test_measuring.py"
        "::test_a_model_of_the_user_is_measured_by_its_embeddings",
        "--submit-to is for --run": "tests/jobs/augment/test_augment_command.py"
        "::test_a_cluster_gets_the_rows_and_the_folder_of_their_sources",
    },
    "manifests/sources/notes.py": {
        "holds no whole place": "tests/pipeline/batching/test_regions.py"
        "::test_a_changing_part_smaller_than_a_place_lowers_the_start",
    },
    "jobs/cli/check_command.py": {
        "--embeddings compares": f"{LIKE}::test_an_onnx_file_says_which_pictures_are_like_the_originals",
    },
    "jobs/augment/measuring.py": {
        "has no pictures: make them": "tests/jobs/augment/test_augment_command.py"
        "::test_run_makes_the_pictures_and_a_grown_dataset_makes_only_new_ones",
        "writes it again": "tests/jobs/augment/test_measuring.py::test_the_command_writes_table_plot_and_numbers",
        "name the folder that they were made into": "tests/jobs/augment/test_measuring.py"
        "::test_pictures_of_others_and_a_result_that_cannot_be_written",
    },
    "jobs/augment/user_models.py": {
        "there is no such classifier": f"{CHECKED}::test_an_onnx_file_flags_the_picture_of_another_class",
        "is no ONNX file": f"{CHECKED}::test_an_onnx_file_flags_the_picture_of_another_class",
        "the classifier has {} for {}": f"{CHECKED}::test_names_are_given_where_the_file_has_none",
        "is none of the classifier's": f"{CHECKED}::test_names_are_given_where_the_file_has_none",
    },
}
