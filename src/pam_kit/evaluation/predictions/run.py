"""The predictions that are still missing, unit by unit, each on the disk before the next one begins.

Torch-free until something is missing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pam_kit.evaluation.predictions.ledger import PredictionFile
from pam_kit.evaluation.predictions.merging import predicted
from pam_kit.evaluation.predictions.settings import PredictionSettings
from pam_kit.evaluation.predictions.units import Unit
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.shard import Shard

if TYPE_CHECKING:
    from pam_kit.inference.predictor import RegionPredictor

Progress = Callable[..., Iterable]


def predict_missing(
    load: "Callable[[], RegionPredictor]",
    root: Path,
    folder: Path,
    units: Sequence[Unit],
    shard: Shard,
    settings: PredictionSettings,
    progress: Progress = lambda items, **_: items,
) -> list[str]:
    """Predict what no file in ``folder`` has yet of the units of one part; notes on what was found there.

    Args:
        load: gives the model; it is called only where something is missing.
        root: the benchmark's folder.
        units: of the whole benchmark.
        progress: wraps the units, for example tqdm.
    """
    regions = {record.id: record for unit in units for record in unit.records}
    with PredictionFile(folder, shard, regions) as file:
        there = {
            key for key, record in predicted(folder, list(regions.values())).items() if record.prediction is not None
        }
        left = [unit for unit in shard.of(units) if any(record.id not in there for record in unit.records)]
        predictor = cache(load)
        for unit in progress(left, desc=f"{folder.name} {shard}"):
            # The unit is answered as a whole, whatever is there of it: its texts would depend on that otherwise.
            answers = list(_answers(predictor(), root, unit, settings))
            file.add(record for record in answers if record.id not in there)
        return file.notes


def _answers(
    predictor: "RegionPredictor", root: Path, unit: Unit, settings: PredictionSettings
) -> Iterator[RegionRecord]:
    from pam_kit.evaluation.predictions.pictures import answer_pictures
    from pam_kit.evaluation.predictions.videos import answer_clip, answer_stream

    if unit.kind == "pictures":
        return answer_pictures(predictor, root, unit.parts, settings)
    answer = answer_clip if unit.kind == "clip" else answer_stream
    return answer(predictor, root, unit.parts[0], settings)
