"""What a scoring protocol says about the predictions of a benchmark. Torch-free."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ProtocolScores:
    """The numbers of one protocol, in the scale of its own papers' libraries: 0 to 1, CIDEr 0 to 10, judges their own.

    Args:
        protocol: its name, which is printed beside every number.
        corpus: metric -> the value over all regions; how it is aggregated is the protocol's.
        items: record id, or group where groups are judged -> metric -> value; None where a judge gave none.
        notes: what a reader has to know: models and tokens used, how many could be parsed, what was left out.
    """

    protocol: str
    corpus: dict[str, float]
    items: dict[str, dict[str, float | None]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
