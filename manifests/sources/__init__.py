"""Source images: which may be read, and reading them safely."""
