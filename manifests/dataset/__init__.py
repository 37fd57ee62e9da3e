"""The output folder: publishing, commits, recovery, the dataset card."""
