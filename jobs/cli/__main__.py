"""Makes `python -m wanbatch.jobs.cli` the same as `wanbatch`."""

from wanbatch.jobs.cli.start import main

main(prog_name="wanbatch")
