"""SAM 2's memory: what it keeps of earlier frames, and how the next frame is seen through it.

The modules are those of the ``sam2`` package, unmodified (SAM 2, arXiv 2408.00714, Section 4: memory attention, memory
encoder, memory bank). The package's own predictor holds a whole video and follows one object after another; here frames
come one by one, regions share the batch axis, and what SAM 2 will not read again is dropped.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from pam_kit.components.backbones.sam_decoding import hide_absent
from pam_kit.contracts import ImageFeatures, RegionFeatures

# Frames in which a region was pointed at that it remembers for good: the first one and the latest.
MAX_POINTED_FRAMES = 4

# A frame's memory by the package's names; ``maskmem_features`` is dropped before ``obj_ptr``.
_Entry = dict[str, Tensor]


@dataclass(kw_only=True)
class Sam2Features(ImageFeatures):
    """Features of B pictures and what SAM 2's memory reads of them, which is private to the backbone.

    ``without_memory`` (B, C, h, w): the embedding without the no-memory embedding; ``position`` (B, C, h, w): its
    position code.
    """

    without_memory: Tensor
    position: Tensor

    def of_regions(self, embedding: Tensor) -> ImageFeatures:
        """The features of regions that share the frame, B = 1, but not its embedding, (R, C, h, w)."""
        shared = tuple(level.expand(len(embedding), -1, -1, -1) for level in self.high_resolution)
        return ImageFeatures(embedding=embedding, high_resolution=shared)


class GroupMemory:
    """What SAM 2 reads of the earlier frames, for regions that were pointed at in the same frames.

    Kept are the frames in which the regions were pointed at (the first and the latest ones, ``MAX_POINTED_FRAMES`` in
    all), the spatial memories of the last ``num_maskmem - 1`` frames and the object pointers of the last
    ``max_obj_ptrs_in_encoder - 1``; nothing else, however long the video. As in the released PAM, the memory of a frame
    in which the regions are pointed at is rounded to bfloat16 and those of other frames are not, the mask of such a
    frame is binarised, and object pointers are told apart by their distance over the most there can be, as in a clip
    of 16 frames or more, so that a stream whose end is unknown and a clip give the same.

    Attributes:
        regions: their numbers in the whole memory, one for each row.
        length: frames remembered, from the first in which the regions were pointed at on.
    """

    def __init__(self, model: SAM2Base, regions: Sequence[int]):
        self.model, self.regions, self.length = model, list(regions), 0
        self._pointed: dict[int, _Entry] = {}
        self._recent: dict[int, _Entry] = {}

    def condition(self, frame: Sam2Features, position: Tensor) -> Tensor:
        """The frame as each region sees it through its memory, (R, C, h, w); ``position`` is that of the memory."""
        count, embedding = len(self.regions), frame.without_memory
        positions = {"maskmem_pos_enc": [position.expand(count, -1, -1, -1)]}
        with weights_type(self.model, embedding):
            conditioned = self.model._prepare_memory_conditioned_features(
                frame_idx=self.length,
                is_init_cond_frame=False,
                current_vision_feats=[_sequence(embedding, count)],
                current_vision_pos_embeds=[_sequence(frame.position, count)],
                feat_sizes=[tuple(embedding.shape[-2:])],
                output_dict={
                    "cond_frame_outputs": {frame: entry | positions for frame, entry in self._pointed.items()},
                    "non_cond_frame_outputs": {frame: entry | positions for frame, entry in self._recent.items()},
                },
                num_frames=max(self.length + 1, self.model.max_obj_ptrs_in_encoder),
            )
        return conditioned.to(self.model.no_mem_embed.dtype)

    def remember(self, spatial: Tensor, pointers: Tensor, pointed: bool) -> None:
        """Keep the frame that was decoded last, as ``encode_memory`` gave it, for those that follow."""
        if pointed:
            spatial = spatial.to(torch.bfloat16).to(spatial.dtype)
        kept = self._pointed if pointed else self._recent
        kept[self.length] = {"maskmem_features": spatial, "obj_ptr": pointers}
        self.length += 1
        self._forget()

    def _forget(self) -> None:
        """Drop what the next frame, of index ``length``, and those behind it will not read."""
        if len(self._pointed) > MAX_POINTED_FRAMES:
            # As SAM 2 does with those that it leaves out, for as long as it would remember any other frame.
            second = sorted(self._pointed)[1]
            self._recent[second] = self._pointed.pop(second)
        for index in list(self._recent):
            age = self.length - index
            if age >= self.model.num_maskmem:
                self._recent[index].pop("maskmem_features", None)
            if age >= max(self.model.max_obj_ptrs_in_encoder, self.model.num_maskmem):
                del self._recent[index]

    def part(self, rows: Sequence[int], regions: Sequence[int]) -> "GroupMemory":
        """The memory of some rows alone, under these numbers."""
        made = GroupMemory(self.model, regions)
        made.length = self.length
        for own, frames in ((made._pointed, self._pointed), (made._recent, self._recent)):
            own.update({i: {name: tensor[rows] for name, tensor in entry.items()} for i, entry in frames.items()})
        return made

    def tensors(self) -> dict[str, Tensor]:
        """``regions``, ``length`` and ``pointed.<frame>.<name>`` or ``recent.<frame>.<name>``."""
        named = {"regions": torch.tensor(self.regions), "length": torch.tensor(self.length)}
        for kind, frames in (("pointed", self._pointed), ("recent", self._recent)):
            for index, entry in frames.items():
                named |= {f"{kind}.{index}.{name}": tensor for name, tensor in entry.items()}
        return named

    @classmethod
    def of_tensors(cls, model: SAM2Base, tensors: dict[str, Tensor]) -> "GroupMemory":
        """The memory that ``tensors`` was taken from; KeyError or ValueError for anything else."""
        made = cls(model, tensors["regions"].tolist())
        made.length = int(tensors["length"])
        kinds = {"pointed": made._pointed, "recent": made._recent}
        for key in tensors.keys() - {"regions", "length"}:
            kind, index, name = key.split(".")
            kinds[kind].setdefault(int(index), {})[name] = tensors[key].to(model.no_mem_embed.device)
        # The order in which SAM 2 reads them is part of what the sums come to.
        made._pointed, made._recent = (dict(sorted(frames.items())) for frames in kinds.values())
        return made


@torch.no_grad()
def encode_memory(
    model: SAM2Base, frame: Sam2Features, regions: RegionFeatures, tokens: Tensor, pointed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A decoded frame as SAM 2 remembers it, outside the graph.

    Args:
        model: the package's SAM 2.
        frame: B = 1.
        regions: of it; ``mask_logits`` says where each region is and ``object_score`` whether: where it is not positive
            the region is remembered as absent.
        tokens: (R, C): the mask tokens that become object pointers.
        pointed: whether the regions are pointed at in this frame.

    Returns:
        (R, M, h, w) spatial memories, (R, C) object pointers, (1, M, h, w) the position code of every memory.
    """
    embedding, score = frame.without_memory, regions.object_score[:, None]
    with weights_type(model, embedding):
        spatial, positions = model._encode_new_memory(
            current_vision_feats=[_sequence(embedding, len(tokens))],
            feat_sizes=[tuple(embedding.shape[-2:])],
            pred_masks_high_res=_full_size(hide_absent(regions.mask_logits, regions.object_score), model.image_size),
            object_score_logits=score,
            is_mask_from_pts=pointed,
        )
        return spatial, _object_pointers(model, tokens, score), positions[-1][:1]


def weights_type(model: SAM2Base, embedding: Tensor) -> AbstractContextManager[None]:
    """Let weights that were cast meet the fp32 numbers that SAM 2's memory makes on its way."""
    dtype = model.no_mem_embed.dtype
    return nullcontext() if dtype == torch.float32 else torch.autocast(embedding.device.type, dtype=dtype)


def _full_size(mask_logits: Tensor, side: int) -> Tensor:
    return F.interpolate(mask_logits.float(), size=(side, side), mode="bilinear", align_corners=False)


def _object_pointers(model: SAM2Base, tokens: Tensor, object_score: Tensor) -> Tensor:
    """(R, C) and (R, 1) -> (R, C): what the decoder says of each region in one vector; another where it is gone."""
    pointers = model.obj_ptr_proj(tokens)
    if not (model.pred_obj_scores and model.use_obj_ptrs_in_encoder):
        return pointers
    present = (object_score > 0).to(pointers.dtype)
    return (present * pointers if model.fixed_no_obj_ptr else pointers) + (1 - present) * model.no_obj_ptr


def _sequence(features: Tensor, count: int) -> Tensor:
    """(1, C, h, w) -> (h*w, count, C): what the package's memory modules take."""
    return features.flatten(2).permute(2, 0, 1).expand(-1, count, -1)
