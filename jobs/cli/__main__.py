"""`python -m wanbatch.jobs.cli`."""

import sys

from wanbatch.jobs.cli.main import main

sys.exit(main())
