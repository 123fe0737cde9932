"""The page on ablations, written anew from what studies have left: ``docs/ablations.md`` and its pictures.

``python -m pam_kit.ablation.report RUNS`` does what ``pam-kit ablate --docs`` does.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pam_kit.ablation.chains import make_chains, study_folder
from pam_kit.ablation.results import Results, collect
from pam_kit.ablation.study_file import find_study, read_study, shipped_studies
from pam_kit.ablation.tables import draw, markdown
from pam_kit.atomic_files import write_text
from pam_kit.errors import PamKitError

PAGE, START = "ablations.md", "<!-- written by pam-kit ablate --docs; what stands above this line is kept -->"
_OPENING = "# Ablations\n"


def write_page(out: Path, docs: Path, own: Sequence[str] = ()) -> list[str]:
    """Write the sections of all studies that have results in ``out``; returns their names.

    What stands in the page above the marked line is kept: it is written by hand. So are the sections of other studies,
    which were run elsewhere.

    Args:
        out: the folder of studies and runs.
        docs: the page's folder; pictures go into ``images`` below it.
        own: files of studies beside the shipped ones.

    Raises:
        PamKitError: no study has been tabled there, or none of its runs is finished.
    """
    files = dict.fromkeys([*shipped_studies().values(), *(find_study(name) for name in own)])
    studies = [read_study(file) for file in files]
    tabled = [study for study in studies if study_folder(out, study).is_dir()]
    found = {study.title: collect(make_chains(study), out) for study in tabled}
    found = {title: results for title, results in found.items() if any(row.cells for row in results.rows)}
    if not found:
        raise PamKitError(f"no study has a finished run in {out}; run one first: pam-kit ablate STUDY --out {out}")
    page = docs / PAGE
    former = page.read_text(encoding="utf-8") if page.is_file() else _OPENING
    opening, _, below = former.partition(START)
    sections = _sections(below) | {title: _section(results, docs) for title, results in found.items()}
    # In the order of the studies; what the page has of a study that is no longer known goes to its end.
    order = [study.title for study in studies if study.title in sections]
    lines = [opening.rstrip(), "", START]
    for title in [*order, *(title for title in sections if title not in order)]:
        lines += ["", *sections[title]]
    write_text(page, "\n".join(lines) + "\n")
    return [results.study.name for results in found.values()]


def _sections(written: str) -> dict[str, list[str]]:
    """Title -> lines of each study that a former page has."""
    found: dict[str, list[str]] = {}
    for part in f"\n{written}".split("\n## ")[1:]:
        found[part.partition("\n")[0]] = f"## {part}".rstrip().splitlines()
    return found


def _section(results: Results, docs: Path) -> list[str]:
    study = results.study
    lines = [f"## {study.title}", "", study.question, "", f"    pam-kit ablate {study.name}", "", *markdown(results)]
    picture = f"ablation_{study.name}.png"
    if draw(results, docs / "images" / picture):
        lines += ["", f"![{study.title}: {', '.join(study.plot)}](images/{picture})"]
    return [*lines, *(["", study.remarks] if study.remarks else [])]


def main(arguments: Sequence[str] | None = None) -> int:
    """0: written; 2: there is nothing to write."""
    parser = argparse.ArgumentParser(prog="python -m pam_kit.ablation.report", description="Write docs/ablations.md.")
    parser.add_argument("out", nargs="?", default="runs/ablations", help="the folder of studies and runs")
    parser.add_argument("--docs", default="docs", help="the folder of the page")
    options = parser.parse_args(arguments)
    try:
        print(f"{options.docs}/{PAGE}: {', '.join(write_page(Path(options.out), Path(options.docs)))}")
    except PamKitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
