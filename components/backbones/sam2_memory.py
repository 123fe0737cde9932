"""What SAM 2 remembers of all regions of a video, which may have been pointed at in different frames."""

from collections.abc import Sequence

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from pam_kit.components.backbones.region_rows import check_kept
from pam_kit.components.backbones.sam2_tracking import GroupMemory, Sam2Features, encode_memory
from pam_kit.contracts import RegionFeatures, RegionMemory
from pam_kit.errors import PamKitError


class Sam2Memory(RegionMemory):
    """Regions that were pointed at in the same frames form a group, which runs as one batch.

    Pointing at some regions of a group splits it. Nothing of what a region remembers depends on the other regions.
    """

    def __init__(self, model: SAM2Base):
        self.model = model
        self._groups: list[GroupMemory] = []
        # The position code of a frame's memory is the same for all frames and regions.
        self._position: Tensor | None = None

    def __len__(self) -> int:
        return sum(len(group.regions) for group in self._groups)

    def split(self, rows: Sequence[int]) -> list[int]:
        """Part the regions ``rows`` from the others; the others, in the order of ``condition``."""
        parts = []
        for group in self._groups:
            inside = [row for row, region in enumerate(group.regions) if region in rows]
            outside = [row for row in range(len(group.regions)) if row not in inside]
            parts += [_part(group, some) for some in (inside, outside) if some]
        self._groups = parts
        return [region for group in self._others(rows) for region in group.regions]

    def condition(self, frame: Sam2Features, pointed: Sequence[int]) -> Tensor:
        """The frame as the regions that are not pointed at see it through their memories: (r, C, h, w), r > 0."""
        assert self._position is not None
        return torch.cat([group.condition(frame, self._position) for group in self._others(pointed)])

    def remember(self, frame: Sam2Features, regions: RegionFeatures, tokens: Tensor, pointed: Sequence[int]) -> None:
        """Keep the frame for those that follow.

        Args:
            frame: the one that was decoded last.
            regions: all of them, those that are new behind the others.
            tokens: (R, C): the mask tokens that become object pointers.
            pointed: the regions that are pointed at in this frame, new ones among them; ``split`` went ahead.
        """
        new = range(len(self), len(tokens))
        if new:
            self._groups.append(GroupMemory(self.model, new))
        for group in self._groups:
            own, again = regions.of_rows(group.regions), group.regions[0] in pointed
            spatial, pointers, position = encode_memory(self.model, frame, own, tokens[group.regions], again)
            group.remember(spatial, pointers, again)
            self._position = position if self._position is None else self._position

    def _others(self, pointed: Sequence[int]) -> list[GroupMemory]:
        return [group for group in self._groups if group.regions[0] not in pointed]

    def keep(self, rows: Sequence[int]) -> None:
        check_kept(rows, len(self))
        number = {region: new for new, region in enumerate(rows)}
        kept = []
        for group in self._groups:
            own = [row for row, region in enumerate(group.regions) if region in number]
            if own:
                kept.append(group.part(own, [number[group.regions[row]] for row in own]))
        self._groups = kept

    def tensors(self) -> dict[str, Tensor]:
        named = {} if self._position is None else {"position": self._position}
        for number, group in enumerate(self._groups):
            named |= {f"{number}.{name}": tensor for name, tensor in group.tensors().items()}
        return named

    def restore(self, tensors: dict[str, Tensor]) -> None:
        groups: dict[int, dict[str, Tensor]] = {}
        try:
            for key in tensors.keys() - {"position"}:
                number, _, name = key.partition(".")
                groups.setdefault(int(number), {})[name] = tensors[key]
            restored = [GroupMemory.of_tensors(self.model, own) for _, own in sorted(groups.items())]
        except (KeyError, ValueError) as error:
            raise PamKitError(f"these are not the tensors of a SAM 2 memory: {error}") from error
        position = tensors.get("position")
        self._groups = restored
        self._position = None if position is None else position.to(self.model.no_mem_embed.device)


def _part(group: GroupMemory, rows: Sequence[int]) -> GroupMemory:
    whole = len(rows) == len(group.regions)
    return group if whole else group.part(rows, [group.regions[row] for row in rows])
