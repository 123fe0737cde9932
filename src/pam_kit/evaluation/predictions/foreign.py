"""Predictions that somebody else made, read from JSON lines. Torch-free."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pam_kit.errors import PamKitError
from pam_kit.evaluation.predictions.merging import with_prediction_of
from pam_kit.evaluation.records import RegionRecord, numbered_lines

FORMAT = (
    'one JSON object a line: {"id": "7", "prediction": "a red cup", "references": ["cup"]}, without references where '
    "--benchmark and --data have them, or a whole region as pam-kit evaluate writes it"
)
_SHORT = {"id", "prediction", "references"}


def read_foreign(
    path: str | Path, regions: Sequence[RegionRecord] | None = None, others: Sequence[RegionRecord] = ()
) -> tuple[list[RegionRecord], list[str]]:
    """The regions of a file of predictions, and notes on what is missing.

    Args:
        regions: those of the benchmark that the file is of; references, order and number are then theirs, and one of
            which the file says nothing counts as an empty text.
        others: further regions of the benchmark; what the file says of them is left out.

    Raises:
        PamKitError: a line is of another form, an id comes twice, or is none of the benchmark's.
    """
    path = Path(path)
    known = None if regions is None else {record.id: record for record in (*regions, *others)}
    found: dict[str, RegionRecord] = {}
    for source, line in numbered_lines(path, FORMAT):
        record = _record(line, source, known)
        if record.id in found:
            raise PamKitError(f"{source}: the id {record.id!r} comes a second time; a region has one prediction")
        found[record.id] = record
    if not found:
        raise PamKitError(f"{path} holds no prediction; expected {FORMAT}")
    if regions is None:
        return list(found.values()), _notes(found.values())
    there = [found[record.id] for record in regions if record.id in found]
    if not there:
        raise PamKitError(f"{path} has none of the {len(regions)} regions that are chosen; choose others, or all")
    missing, unasked = len(regions) - len(there), len(found) - len(there)
    notes = []
    if missing:
        notes.append(
            f"{missing} of {len(regions)} regions of the benchmark are not in {path.name}; they count as empty texts"
        )
    if unasked:
        notes.append(f"{unasked} predictions in {path.name} are of regions that are not chosen; they are left out")
    return [found.get(record.id, record) for record in regions], notes + _notes(there)


def _record(line: str, source: str, known: Mapping[str, RegionRecord] | None) -> RegionRecord:
    facts = _object(line, source)
    if set(facts) <= _SHORT:
        record = _short(facts, source, known)
    else:
        record = RegionRecord.from_facts(facts, source)
    if known is None:
        return record
    if record.id not in known:
        raise PamKitError(
            f"{source}: the benchmark has no region {record.id!r}; the first of its ids is {next(iter(known))!r}"
        )
    return with_prediction_of(known[record.id], record)


def _object(line: str, source: str) -> dict:
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PamKitError(f"{source}: not JSON: {error}; expected {FORMAT}") from None
    if not isinstance(facts, dict):
        raise PamKitError(f"{source}: expected {FORMAT}")
    return facts


def _short(facts: dict, source: str, known: Mapping[str, RegionRecord] | None) -> RegionRecord:
    id, prediction = facts.get("id"), facts.get("prediction")
    if type(id) not in (str, int) or not isinstance(prediction, str | None) or "prediction" not in facts:
        raise PamKitError(f"{source}: a prediction needs an id and a text, {FORMAT}")
    references = facts.get("references")
    if isinstance(references, str):
        references = [references]
    if known is None and references is None:
        raise PamKitError(f"{source}: there are no references; expected {FORMAT}")
    whole = {"id": str(id), "benchmark": "", "question": "", "references": references if known is None else ["-"]}
    return RegionRecord.from_facts(whole | {"prediction": prediction}, source)


def _notes(records) -> list[str]:
    empty = sum(not record.answer.strip() for record in records)
    return [f"{empty} predictions are empty texts"] if empty else []
