"""`python -m hfdistill`, and so `accelerate launch -m hfdistill`."""

import sys

from hfdistill.cli import main

sys.exit(main())
