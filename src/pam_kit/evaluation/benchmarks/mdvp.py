"""Several marks in one question, rated by a judge that sees the picture: MDVP-Bench. Torch-free."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pam_kit.evaluation.benchmarks.contract import Benchmark, Headline, Reading, Variant
from pam_kit.evaluation.benchmarks.fields import need_text
from pam_kit.evaluation.benchmarks.marked import PAGE, MarkedRegion, marked_regions, split_answers
from pam_kit.evaluation.records import RegionRecord
from pam_kit.tasks import question

# Domain -> what is asked in it; a file each, for boxes and for points.
DOMAIN_TASKS = {
    "natural": ("brief_caption", "detailed_caption", "Inter_Relationship", "QA"),
    "ocr_doc": ("detailed_caption", "QA"),
    "ocr_spotting": ("detailed_caption", "QA"),
    "android": ("detailed_caption", "QA"),
    "web": ("detailed_caption", "QA"),
    "multipanel": ("detailed_caption", "Inter_Relationship", "QA"),
}
# What PAM has words of its own for; the rest is asked as published.
_OWN_WORDS = {"brief_caption": "caption", "detailed_caption": "describe"}


def _files(marks: str) -> tuple[str, ...]:
    return tuple(f"**/{domain}_{task}_{marks}.json" for domain, tasks in DOMAIN_TASKS.items() for task in tasks)


class Mdvp(Benchmark):
    """Thirty files of four kinds of pictures; the paper's Table 2."""

    name = "mdvp"
    title = "MDVP-Bench"
    variants = (
        Variant("box", _files("box"), "fifteen files of questions with boxes", f"{PAGE} (MDVP-bench)"),
        Variant(
            "point", _files("point"), "fifteen files of questions with points", f"{PAGE} (MDVP-bench)", ("points",)
        ),
    )
    media = ("images", "MDVP-bench/images", "MDVP-bench", "")
    media_page = f"{PAGE} (MDVP-bench)"
    task = "describe"
    protocols = ("pairwise_mdvp",)
    headlines = (Headline("relative_score", "pairwise_mdvp", 2, "MDVP-Bench average", 1.0),)
    decisions = (
        "each mark is asked about alone, and what is said of all marks of a question is judged together; captions are "
        "asked for in the model's own words, relations and questions in the published ones",
        "how PAM's average is made up is not published; here it is the plain mean of natural, OCR, screens and "
        "multi-panel pictures",
    )

    def _regions(self, reading: Reading) -> Iterator[tuple[str, Callable[[], RegionRecord]]]:
        for pattern in reading.variant.files:
            path = reading.files(pattern)[0]
            order = 0
            for region in marked_regions(path):
                order += region.number == 1
                yield region.source, partial(self._mark, reading, path, order, region)

    def _mark(self, reading: Reading, path: Path, order: int, region: MarkedRegion) -> RegionRecord:
        published = need_text(region.entry, "question", region.source)
        domain, asked = _domain_and_task(path.stem)
        # In a question's own folder, or beside all others.
        folder = path.parent.relative_to(reading.root).as_posix()
        image, prompt = region.place(reading.root, (*self.media, folder, f"{folder}/images"))
        own = _OWN_WORDS.get(asked)
        answers = region.answers
        meta = {
            "domain": domain,
            "file": path.stem,
            "mark": region.number,
            "judge_question": published,
            "reference_answer": answers,
            "question_id": region.question_id,
        }
        return self._record(
            f"{path.stem}:{order}:{region.number}",
            [split_answers(answers).get(region.number, answers)],
            question=question(own, "en") if own else published,
            task=own or "describe",
            image=image,
            prompt=prompt,
            group=f"{path.stem}:{order}",
            meta=meta,
        )


def _domain_and_task(stem: str) -> tuple[str, str]:
    """``ocr_doc_QA_box`` -> ocr_doc, QA."""
    name = stem.rsplit("_", 1)[0]
    domain = max((d for d in DOMAIN_TASKS if name.startswith(f"{d}_")), key=len)
    return domain, name.removeprefix(f"{domain}_")
