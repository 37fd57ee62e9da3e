"""One run: workers, units, retries, commits."""
