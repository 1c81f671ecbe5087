#!/usr/bin/env -S python3 -I
"""Compare a database with what it should be: pgvigil validate (--help lists the options)."""

import os
import sys
from pathlib import Path

bootstrap = str(Path(__file__).resolve().with_name("bootstrap.sh"))
os.execv(bootstrap, [bootstrap, "run", "-m", "pgvigil", "validate", *sys.argv[1:]])  # noqa: S606 - no shell wanted
