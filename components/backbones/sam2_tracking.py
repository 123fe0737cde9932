"""SAM 2's memory: what it keeps of earlier frames, and how the next frame is seen through it.

The modules are those of the ``sam2`` package, unmodified (SAM 2, arXiv 2408.00714, Section 4: memory attention, memory
encoder, memory bank). The package's own predictor holds a whole video and follows one object after another; here frames
come one by one, R regions share the batch axis, and what SAM 2 will not read again is dropped.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from pam_kit.components.backbones.sam_decoding import hide_absent
from pam_kit.contracts import ImageFeatures, PromptBatch

_Entry = dict[str, Tensor | list[Tensor]]


@dataclass
class EncodedFrame:
    """One frame behind the image encoder.

    ``embedding`` (1, C, h, w): of stride 16, without the no-memory embedding; ``position`` (1, C, h, w): its position
    code; ``high_resolution``: (1, C/8, 4h, 4w) and (1, C/4, 2h, 2w), for the mask decoder.
    """

    embedding: Tensor
    position: Tensor
    high_resolution: tuple[Tensor, Tensor]

    def of_regions(self, count: int, embedding: Tensor) -> ImageFeatures:
        """The features of ``count`` regions that share the frame but not its embedding, (count, C, h, w)."""
        shared = tuple(level.expand(count, -1, -1, -1) for level in self.high_resolution)
        return ImageFeatures(embedding=embedding, high_resolution=shared)


class RegionMemory:
    """What SAM 2 reads of the earlier frames of a clip, for R regions that know nothing of each other.

    Kept are the first frame, the spatial memories of the last ``num_maskmem - 1`` frames and the object pointers of the
    last ``max_obj_ptrs_in_encoder - 1``; nothing else, however long the clip. As in the released PAM, the memory of the
    first frame is rounded to bfloat16 and those of later frames are not, the first frame's mask is binarised, and
    object pointers are told apart by their distance over the most there can be, as in a clip of 16 frames or more, so
    that a stream whose end is unknown and a clip give the same.

    Nothing here is learned, and no gradient flows back through the memory: ``remember`` runs outside the graph.
    """

    def __init__(self, model: SAM2Base):
        self.model = model
        self.length = 0
        self._first: _Entry = {}
        self._recent: dict[int, _Entry] = {}
        self._positions: list[Tensor] = []

    def condition(self, frame: EncodedFrame, count: int) -> Tensor:
        """The frame as each of ``count`` regions sees it through its memory: (count, C, h, w)."""
        with self._weights_type(frame.embedding):
            conditioned = self.model._prepare_memory_conditioned_features(
                frame_idx=self.length,
                is_init_cond_frame=False,
                current_vision_feats=[_sequence(frame.embedding, count)],
                current_vision_pos_embeds=[_sequence(frame.position, count)],
                feat_sizes=[tuple(frame.embedding.shape[-2:])],
                output_dict={"cond_frame_outputs": {0: self._first}, "non_cond_frame_outputs": self._recent},
                num_frames=max(self.length + 1, self.model.max_obj_ptrs_in_encoder),
            )
        return conditioned.to(self.model.no_mem_embed.dtype)

    @torch.no_grad()
    def remember(self, frame: EncodedFrame, mask_logits: Tensor, tokens: Tensor, object_score: Tensor) -> None:
        """Keep the frame for those that follow.

        Args:
            frame: the one that was decoded last.
            mask_logits: (R, 1, 4h, 4w): where each region is in it.
            tokens: (R, C): the mask tokens that become object pointers.
            object_score: (R,) logits; where they are not positive the region is remembered as absent.
        """
        with self._weights_type(frame.embedding):
            spatial, positions = self.model._encode_new_memory(
                current_vision_feats=[_sequence(frame.embedding, len(tokens))],
                feat_sizes=[tuple(frame.embedding.shape[-2:])],
                pred_masks_high_res=self._full_size(hide_absent(mask_logits, object_score)),
                object_score_logits=object_score[:, None],
                is_mask_from_pts=self.length == 0,
            )
            pointers = self._object_pointers(tokens, object_score[:, None])
        # The position code is the same in every frame.
        self._positions = self._positions or positions
        if self.length == 0:
            spatial = spatial.to(torch.bfloat16).to(spatial.dtype)
        entry: _Entry = {"maskmem_features": spatial, "maskmem_pos_enc": self._positions, "obj_ptr": pointers}
        if self.length == 0:
            self._first = entry
        else:
            self._recent[self.length] = entry
        self.length += 1
        self._forget()

    def _forget(self) -> None:
        """Drop what the next frame, of index ``length``, and those behind it will not read."""
        for index in list(self._recent):
            age = self.length - index
            if age >= self.model.num_maskmem:
                self._recent[index].pop("maskmem_features", None)
            if age >= max(self.model.max_obj_ptrs_in_encoder, self.model.num_maskmem):
                del self._recent[index]

    def _full_size(self, mask_logits: Tensor) -> Tensor:
        size = (self.model.image_size, self.model.image_size)
        return F.interpolate(mask_logits.float(), size=size, mode="bilinear", align_corners=False)

    def _object_pointers(self, tokens: Tensor, object_score: Tensor) -> Tensor:
        """(R, C) and (R, 1) -> (R, C): what the decoder says of each region in one vector; another where it is gone."""
        model = self.model
        pointers = model.obj_ptr_proj(tokens)
        if not (model.pred_obj_scores and model.use_obj_ptrs_in_encoder):
            return pointers
        present = (object_score > 0).to(pointers.dtype)
        return (present * pointers if model.fixed_no_obj_ptr else pointers) + (1 - present) * model.no_obj_ptr

    def _weights_type(self, embedding: Tensor) -> AbstractContextManager[None]:
        """Let weights that were cast meet the fp32 numbers that SAM 2's memory makes on its way."""
        dtype = self.model.no_mem_embed.dtype
        return nullcontext() if dtype == torch.float32 else torch.autocast(embedding.device.type, dtype=dtype)


def no_prompts(count: int, like: PromptBatch) -> PromptBatch:
    """Prompts of ``count`` regions that say nothing, in the shapes and on the device of others."""
    return PromptBatch(
        points=like.points.new_zeros(count, 0, 2),
        labels=like.labels.new_zeros(count, 0),
        masks=like.masks.new_zeros(count, *like.masks.shape[1:]),
        has_mask=like.has_mask.new_zeros(count),
    )


def _sequence(features: Tensor, count: int) -> Tensor:
    """(1, C, h, w) -> (h*w, count, C): what the package's memory modules take."""
    return features.flatten(2).permute(2, 0, 1).expand(-1, count, -1)
