"""How near a stage comes to the least time that the peaks of its card allow."""

from collections.abc import Mapping, Sequence

from pam_kit.kernels.cards import Card
from pam_kit.kernels.counting import Launch
from pam_kit.kernels.roofline import bound


def shares(launches: Mapping[str, Sequence[Launch]], seconds: Mapping[str, float], card: Card) -> dict[str, float]:
    """Stage -> least time of its kernels / measured seconds, and ``all`` of them together.

    Every operation is taken for one kernel that reads and writes its tensors once, and the card's peak is that of
    bfloat16: a model in float32 cannot reach it.
    """
    least = {stage: bound(own, card) for stage, own in launches.items()}
    found = {stage: least[stage] / seconds[stage] for stage in least if seconds.get(stage)}
    measured = sum(seconds[stage] for stage in found)
    return found | ({"all": sum(least[stage] for stage in found) / measured} if measured else {})
