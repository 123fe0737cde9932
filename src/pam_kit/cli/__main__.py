"""`python -m pam_kit.cli` is `pam-kit`."""

import sys

from pam_kit.cli import main

if __name__ == "__main__":
    sys.exit(main())
