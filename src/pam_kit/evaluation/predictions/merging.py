"""The predictions of all parts of a benchmark, in the benchmark's own order. Torch-free."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pam_kit.errors import PamKitError
from pam_kit.evaluation.predictions.ledger import BROKEN, SEEN, read_lines, usable
from pam_kit.evaluation.predictions.units import Unit
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.shard import PART_FILES, Shard


def predicted(folder: Path, records: Sequence[RegionRecord]) -> dict[str, RegionRecord]:
    """By id what all parts in ``folder`` hold of these regions, those that could not be read included.

    Parts of runs with another number of processes count too.
    """
    regions = {record.id: record for record in records}
    found: dict[str, RegionRecord] = {}
    for path in sorted(folder.glob(PART_FILES)):
        lines, _ = read_lines(path)
        kept, _ = usable(lines, regions)
        broken = {one.id: one for one in lines if one.prediction is None and BROKEN in one.meta and one.id in regions}
        found = {**broken, **found} | kept
    return found


def merged(records: Sequence[RegionRecord], found: dict[str, RegionRecord]) -> list[RegionRecord]:
    """The benchmark's records with their predictions; references and facts are those of the benchmark now."""
    return [with_prediction_of(record, found[record.id]) for record in records]


def check_complete(units: Sequence[Unit], found: dict[str, RegionRecord], shards: int, folder: Path) -> None:
    """Raise PamKitError that names the parts which have not predicted all of their regions."""
    missing: dict[Shard, int] = {}
    for index, unit in enumerate(units):
        lacking = sum(record.id not in found for record in unit.records)
        if lacking:
            owner = Shard(1, shards).owner(index)
            missing[owner] = missing.get(owner, 0) + lacking
    if missing:
        told = ", ".join(
            f"{count} of part {shard}" for shard, count in sorted(missing.items(), key=lambda m: m[0].number)
        )
        raise PamKitError(
            f"{folder}: predictions are missing: {told}; run the same command with "
            f"{' and '.join(f'--shard {shard}' for shard in sorted(missing, key=lambda shard: shard.number))}, "
            "or without --shard, which makes all that is missing"
        )


def with_prediction_of(record: RegionRecord, said: RegionRecord) -> RegionRecord:
    """The benchmark's record with the prediction of ``said``, and with what was seen or why there is none."""
    facts = {key: said.meta[key] for key in (SEEN, BROKEN) if key in said.meta}
    return replace(record, prediction=said.prediction, meta=record.meta | facts)
