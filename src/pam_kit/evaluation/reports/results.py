"""What is known of one benchmark after a run: numbers, how they came about, what to bear in mind. Torch-free."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pam_kit.atomic_files import whole_file, write_json
from pam_kit.errors import PamKitError
from pam_kit.evaluation.protocol_scores import ProtocolScores

RESULT, ITEMS = "scores.json", "items.jsonl"


@dataclass(frozen=True)
class BenchmarkResult:
    """The outcome of one benchmark.

    Args:
        run: what tells it from other runs of the benchmark, such as ``lvis-osprey-box``.
        benchmark: its registered name, or "" for predictions of something else.
        title: as people call it.
        regions: how many were scored.
        broken: how many of them could not be read, and so count as an empty text.
        left_out: how many entries of the benchmark's files could not be used, and are not among the regions.
        about: model, prompts, generation: what a reader needs to make the numbers again.
        scores: protocol -> metric -> value over all regions, in the libraries' own scale.
        unjudged: protocols that need a judge, where none was given.
        failed: protocol -> why it gave no numbers.
        notes: one line each.
    """

    run: str
    benchmark: str
    title: str
    regions: int
    broken: int
    about: dict[str, Any]
    scores: dict[str, dict[str, float]]
    left_out: int = 0
    unjudged: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def save(self, folder: Path, protocols: Sequence[ProtocolScores]) -> None:
        """``scores.json`` and, one line a region and protocol, ``items.jsonl``."""
        with whole_file(folder / ITEMS, unique=True) as file:
            for one in protocols:
                for key, values in one.items.items():
                    line = {"id": key, "protocol": one.protocol, **values}
                    file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
        write_json(folder / RESULT, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> "BenchmarkResult":
        """What ``save`` wrote. Raises PamKitError where that is something else."""
        path = folder / RESULT
        try:
            facts = json.loads(path.read_bytes())
            return cls(**facts | {"unjudged": tuple(facts["unjudged"]), "notes": tuple(facts["notes"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise PamKitError(
                f"{path} is no result of a benchmark: {error}; remove {folder} or give another --out"
            ) from None
