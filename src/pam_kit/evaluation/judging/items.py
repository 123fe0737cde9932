"""What judges read of a benchmark's regions. Torch-free.

A ``RegionRecord`` gives all protocols its ``references``, ``answer`` and ``group``; the rest is in its ``meta``. What
one question or one video has several records for is judged together: the records of a ``group``.

| protocol | judged together | ``meta`` it reads |
| --- | --- | --- |
| ``pairwise_ferret`` | the boxes of one question | ``context``, ``mark``, ``judge_question``, ``reference_answer`` |
| ``pairwise_mdvp`` | the marks of one question | ``domain``, ``file``, and the last three of Ferret's |
| ``videorefer_bench_d`` | a record alone | ``mode`` |
| ``g_stdc`` | the events of one video; needs ``group`` | ``event`` |

| key of ``meta`` | value | without it |
| --- | --- | --- |
| ``context`` | text: what the picture shows, in words and boxes, for a judge that does not see it | an error |
| ``domain`` | one of ``DOMAINS`` | an error |
| ``file`` | text: the question file without its ending, such as ``natural_QA_box``, which has a score | an error |
| ``mark`` | whole number from 1: which mark of its question the region is | 1; an error beside others |
| ``judge_question`` | text: the question as the benchmark asks it of all its marks | the record's ``question`` |
| ``reference_answer`` | text: the reference's whole answer, for all marks | first references, joined as answers are |
| ``mode`` | text: ``single`` or ``multi``, the masks that were given; stands in the notes | no note |
| ``event`` | number: place of the event in its video | the order of the records; an error beside others |

The first record of a group speaks for it in ``context``, ``domain``, ``file``, ``judge_question``,
``reference_answer`` and ``image``. Marks are drawn where each record's ``prompt`` has its box or point.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pam_kit.errors import PamKitError
from pam_kit.evaluation.records import RegionRecord

# MDVP-Bench: the domain of a file -> the group whose mean it counts in.
DOMAINS = {
    "natural": "natural",
    "ocr_doc": "ocr",
    "ocr_spotting": "ocr",
    "android": "screen",
    "web": "screen",
    "multipanel": "multipanel",
}
DOMAIN_GROUPS = tuple(dict.fromkeys(DOMAINS.values()))


@dataclass(frozen=True)
class Item:
    """What is judged together: its name in results, and its records in the order in which they are told."""

    id: str
    records: tuple[RegionRecord, ...]

    @property
    def first(self) -> RegionRecord:
        return self.records[0]

    @property
    def marks(self) -> list[int]:
        """The number of each record's mark: one whose record is missing keeps its number."""
        return [int(record.meta.get("mark", number)) for number, record in enumerate(self.records, 1)]

    def numbered(self, texts: Sequence[str]) -> str:
        """``<Region 1>: text`` and so on, a line each: how MDVP-Bench writes what is said of several marks."""
        return "\n".join(f"<Region {number}>: {text}" for number, text in zip(self.marks, texts, strict=True))

    def need(self, key: str) -> str:
        """A text of the first record's ``meta``; PamKitError where there is none."""
        value = self.first.meta.get(key)
        if not isinstance(value, str) or not value.strip():
            raise PamKitError(
                f"{self.first.benchmark}, {self.first.id}: a judge needs the text meta[{key!r}], not {value!r}; read "
                "the benchmark anew, or see pam_kit.evaluation.judging.items"
            )
        return value

    def text(self, key: str, otherwise: str) -> str:
        """A text of the first record's ``meta``, if it has one."""
        value = self.first.meta.get(key)
        return value if isinstance(value, str) and value.strip() else otherwise


def single_items(records: Iterable[RegionRecord]) -> list[Item]:
    """Each record alone, under its own id."""
    return [Item(record.id, (record,)) for record in records]


def grouped_items(records: Iterable[RegionRecord], key: str, need_group: bool = False) -> list[Item]:
    """The records of each group, sorted by ``meta[key]``, in the order in which the groups begin.

    A record without a group stands alone, under its id. Raises PamKitError where ``need_group`` forbids that, and
    where the records of a group do not all have the key, or two have the same.
    """
    groups: dict[str, list[RegionRecord]] = {}
    for record in records:
        if need_group and not record.group:
            raise PamKitError(
                f"{record.benchmark}, {record.id}: no group, which here is the video that the event belongs to"
            )
        groups.setdefault(record.group or record.id, []).append(record)
    return [Item(name, tuple(_in_order(name, members, key))) for name, members in groups.items()]


def _in_order(name: str, members: list[RegionRecord], key: str) -> list[RegionRecord]:
    places = [_place(record, key) for record in members]
    if all(place is None for place in places) and key == "event":
        return members
    if len(members) > 1 and (None in places or len(set(places)) < len(places)):
        shown = ", ".join(str(place) for place in places[:8])
        raise PamKitError(
            f"{members[0].benchmark}, {name}: its {len(members)} records need different numbers as meta[{key!r}], "
            f"not {shown}"
        )
    return [record for _, record in sorted(zip(places, members, strict=True), key=lambda pair: pair[0] or 0)]


def _place(record: RegionRecord, key: str) -> Any:
    value = record.meta.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise PamKitError(f"{record.benchmark}, {record.id}: meta[{key!r}] must be a number, not {value!r}")
    return value
