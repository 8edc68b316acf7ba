"""``python -m understudy.pretraining RECIPE``: makes start students."""

import sys

from understudy.pretraining.make import main

if __name__ == "__main__":
    sys.exit(main())
