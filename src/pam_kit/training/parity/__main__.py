"""``python -m pam_kit.training.parity FOLDER``: one line for each golden file; 1 where any of them does not hold."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pam_kit.errors import PamKitError
from pam_kit.training.parity.golden_file import GoldenFile
from pam_kit.training.parity.kinds import check_file, kinds_in_words
from pam_kit.training.parity.language import LOGITS_TOLERANCE
from pam_kit.training.parity.report import TOLERANCE
from pam_kit.training.parity.sam2 import MASK_LOGITS_TOLERANCE
from pam_kit.training.parity.sam2_video import CLIP_TOLERANCE

TOLERANCES = f"""integers and words are compared exactly, numbers to {TOLERANCE:g}; but for
  logits of words, {LOGITS_TOLERANCE:g}: they reach 10, and in fp32 either side is up to 7e-06 away from float64
  logits of masks, {MASK_LOGITS_TOLERANCE:g}: products of tokens and pixels that are both 2e-06 away
  later frames of clips, {CLIP_TOLERANCE:g}, and two pixels of a mask's edge: SAM 2 reads a memory of the first
    frame that the released code rounds to bfloat16; a difference of 1e-06 becomes one of 0.4 % across a border"""


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every file holds; 1: a file does not, or is of no known kind; 2: there is nothing to compare."""
    parser = argparse.ArgumentParser(
        prog="python -m pam_kit.training.parity",
        description="Compare the kit with golden files of the released PAM, in fp32 on the CPU.",
        epilog=f"golden files, by their name below the folder:\n{kinds_in_words()}\n\n{TOLERANCES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where the golden files lie, such as ../shared/golden/public")
    parser.add_argument("--only", default="", metavar="START", help="only files whose name starts so, such as sam2/")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with every single comparison")
    options = parser.parse_args(arguments)
    try:
        files = golden_files(options.folder, options.only)
    except PamKitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = 0
    for file in files:
        report = check_file(file)
        print(report.json_line() if options.json else report.line(), flush=True)
        failed += not report.ok
    if not options.json:
        print(f"{len(files) - failed} of {len(files)} golden files hold")
    return 1 if failed else 0


def golden_files(folder: Path, only: str = "") -> list[GoldenFile]:
    """Every file below a folder, in order of its name. Raises PamKitError where there is none."""
    if not folder.is_dir():
        raise PamKitError(
            f"there is no folder {folder}; name the one that holds perceiver/, sequence/, sam2/ and so on"
        )
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    chosen = [name for name in names if name.startswith(only)]
    if not chosen:
        which = f"no file whose name starts with {only!r}; it holds {', '.join(names)}" if only and names else "no file"
        raise PamKitError(f"{folder} holds {which}")
    return [GoldenFile(folder, name) for name in chosen]


if __name__ == "__main__":
    sys.exit(main())
