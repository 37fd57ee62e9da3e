"""Passing a finished dataset on: exports to other formats, and the Hugging Face Hub."""
