"""`python -m snapstore.cli`."""

import sys

from snapstore.cli import main

sys.exit(main())
