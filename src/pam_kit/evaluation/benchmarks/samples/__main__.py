"""``python -m pam_kit.evaluation.benchmarks.samples OUT [NAME ...]``: write samples of all benchmarks, or of those."""

import sys
from pathlib import Path

from pam_kit.errors import PamKitError
from pam_kit.evaluation.benchmarks.samples.write import write_samples


def main(arguments: list[str]) -> int:
    """Returns the exit code: 2 where nothing is named, or what is named is wrong."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    try:
        for name, folder in write_samples(Path(arguments[0]), arguments[1:] or None).items():
            print(f"{name}: {folder}")
    except PamKitError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
