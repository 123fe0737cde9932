"""All protocols of a benchmark over its predictions, judges among them. Torch-free until a metric needs a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pam_kit.errors import PamKitError
from pam_kit.evaluation.judging.asking import Judge
from pam_kit.evaluation.judging.judge import PROTOCOLS as JUDGED
from pam_kit.evaluation.judging.judge import judge
from pam_kit.evaluation.metrics.protocols import PROTOCOLS as MEASURED
from pam_kit.evaluation.predictions.run import Progress
from pam_kit.evaluation.protocol_scores import ProtocolScores
from pam_kit.evaluation.records import RegionRecord
from pam_kit.registry import suggest

PROTOCOLS = (*MEASURED, *JUDGED)


@dataclass(frozen=True)
class Scored:
    """What the protocols say.

    Args:
        protocols: those that gave numbers.
        unjudged: those that need a judge, where there is none.
        failed: protocol -> why it could not be scored.
    """

    protocols: tuple[ProtocolScores, ...]
    unjudged: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def corpus(self) -> dict[str, dict[str, float]]:
        """Protocol -> metric -> value over all regions."""
        return {one.protocol: dict(one.corpus) for one in self.protocols}

    @property
    def notes(self) -> list[str]:
        """What the protocols say beside their numbers; what several say stands once."""
        saying: dict[str, list[str]] = {}
        for one in self.protocols:
            for note in dict.fromkeys(one.notes):
                saying.setdefault(note, []).append(one.protocol)
        return [f"{', '.join(names)}: {note}" for note, names in saying.items()]


def check_protocols(names: Sequence[str]) -> None:
    """Raises PamKitError for a name that is none of ``PROTOCOLS``."""
    for name in names:
        if name not in PROTOCOLS:
            raise PamKitError(f"no protocol {name!r}{suggest(name, PROTOCOLS, 'protocols')}")


def score_protocols(
    records: Sequence[RegionRecord],
    protocols: Sequence[str],
    by: Judge | None = None,
    root: Path | None = None,
    progress: Progress = lambda items, **_: items,
) -> Scored:
    """Regions with their predictions, all of a benchmark -> what each protocol says of them.

    One that fails, since Java or a model is missing for example, does not keep the others from their numbers.

    Args:
        protocols: their names.
        by: the judge, for those that need one.
        root: where the pictures lie, for judges that see them.
        progress: wraps what a judge is asked.
    """
    found: list[ProtocolScores] = []
    unjudged: list[str] = []
    failed: dict[str, str] = {}
    for name in protocols:
        try:
            if name not in JUDGED:
                found.append(_by_metrics(records, name))
            elif by is None:
                unjudged.append(name)
            else:
                found.append(judge(records, name, by, root, progress=progress))
        except PamKitError as error:
            failed[name] = str(error)
    return Scored(tuple(found), tuple(unjudged), failed)


def _by_metrics(records: Sequence[RegionRecord], protocol: str) -> ProtocolScores:
    from pam_kit.evaluation.metrics.protocols import score

    return score(records, protocol)
