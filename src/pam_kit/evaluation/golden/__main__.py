"""``python -m pam_kit.evaluation.golden FIXTURES GOLDEN``: a line for each metric; 1 where one does not hold."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pam_kit.errors import PamKitError
from pam_kit.evaluation.golden.check import check, read_pair
from pam_kit.evaluation.golden.lines import SIMILARITY_TOLERANCE, TEXT_TOLERANCE


def main(arguments: Sequence[str] | None = None) -> int:
    """0: everything in the golden file holds; 1: something does not, or was skipped; 2: nothing could be compared."""
    parser = argparse.ArgumentParser(
        prog="python -m pam_kit.evaluation.golden",
        description="Compare the scores of texts with golden numbers of the published evaluation scripts.",
        epilog=f"Tokens, readings, semantic IoU and OCR are exact; METEOR, CIDEr, ROUGE, BLEU to {TEXT_TOLERANCE:g}, "
        f"semantic similarity to {SIMILARITY_TOLERANCE:g}. Needs Java and pip install 'pam-kit[eval]'.",
    )
    parser.add_argument("fixtures", type=Path, help="texts, such as ../shared/golden/eval/fixtures_public.json")
    parser.add_argument("golden", type=Path, help="their numbers, such as ../shared/golden/eval/golden_public.json")
    options = parser.parse_args(arguments)
    try:
        fixtures, golden = read_pair(options.fixtures, options.golden)
    except PamKitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    verdicts: Counter[str] = Counter()
    for line in check(fixtures, golden):
        print(line, flush=True)
        verdicts["ok" if line.ok else "skipped" if line.skipped else "FAIL"] += 1
    if not verdicts:
        print(f"error: {options.golden} holds no section to compare", file=sys.stderr)
        return 2
    print(f"{verdicts['ok']} ok, {verdicts['FAIL']} FAIL, {verdicts['skipped']} skipped")
    return 0 if verdicts.keys() == {"ok"} else 1


if __name__ == "__main__":
    sys.exit(main())
