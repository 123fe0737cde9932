"""RegionVLM: backbone -> perceiver -> projector -> decoder, as in PAM's Figure 3. Knows no files and no training."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pam_kit.contracts import (
    ClipBatch,
    Decoder,
    GeneratedText,
    PerceivedTokens,
    Perceiver,
    ProjectedTokens,
    Projector,
    PromptBatch,
    Questions,
    RegionBatch,
    RegionFeatures,
    TextLoss,
    VisionBackbone,
    cropped,
    region_boxes,
)
from pam_kit.errors import PamKitError
from pam_kit.registry import find
from pam_kit.sections import SLOTS, Recipe
from pam_kit.weights import without_pretrained_weights

# Of a clip: the features of its regions in the first frame, and in each frame that is read.
Watched = tuple[RegionFeatures, list[RegionFeatures]]


class RegionPrefix(nn.Module):
    """Puts a region's tokens in the order the decoder reads: visual, newline, semantic, newline, its text.

    In a clip every read frame is written so, and a frame newline ends it. Where the semantic tokens of a clip are
    merged over its frames, they and their newline stand at its end instead.

    Args:
        width: D.
        has_semantic: whether there are semantic tokens.
        has_frames: whether there will be clips.
        merge: semantic tokens of all read frames (R, F*N, D) -> those at the clip's end; None: each frame has its own.
    """

    def __init__(
        self,
        width: int,
        has_semantic: bool,
        has_frames: bool = False,
        merge: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.merge = merge
        self.visual_newline = nn.Parameter(torch.randn(width) * width**-0.5)
        self.semantic_newline = nn.Parameter(torch.randn(width) * width**-0.5) if has_semantic else None
        self.frame_newline = nn.Parameter(torch.randn(width) * width**-0.5) if has_frames else None

    def forward(self, frames: ProjectedTokens | Sequence[ProjectedTokens]) -> Tensor:
        """Tokens of R regions in an image, or in each read frame of a clip -> (R, L, D).

        An image is visual + 1 + N + 1 long, or visual + 1 where N = 0, and W where there is a text; a frame is one
        longer.
        """
        if isinstance(frames, ProjectedTokens):
            image = torch.cat([*self._seen(frames), *self._meant(frames.semantic), *self._told(frames)], dim=1)
            # Devices that see an image and devices that see a clip in the same step have the same gradients.
            return image if self.frame_newline is None else image + 0 * self.frame_newline
        written = [self.of_frame(tokens) for tokens in frames]
        if self.merges:
            written.append(self.of_end([tokens.semantic for tokens in frames]))
        return torch.cat(written, dim=1)

    @property
    def merges(self) -> bool:
        """Whether ``of_end`` has to follow the frames of a clip."""
        return self.merge is not None

    def of_frame(self, tokens: ProjectedTokens) -> Tensor:
        """Tokens of R regions in one read frame of a clip -> (R, L, D); frames follow each other."""
        if self.frame_newline is None:
            raise PamKitError("this model has no separator of frames, since its backbone does not track")
        meant = [] if self.merges else self._meant(tokens.semantic)
        ending = self.frame_newline.expand(len(tokens.visual), 1, -1)
        return torch.cat([*self._seen(tokens), *meant, *self._told(tokens), ending], dim=1)

    def of_end(self, semantic: Sequence[Tensor]) -> Tensor:
        """The projected semantic tokens (R, N, D) of each read frame -> what closes the clip, (R, L, D)."""
        if self.merge is None:
            raise PamKitError("each frame of a clip has its own semantic tokens in this model; nothing closes it")
        return torch.cat(self._meant(self.merge(torch.cat(list(semantic), dim=1))), dim=1)

    def _seen(self, tokens: ProjectedTokens) -> list[Tensor]:
        return [tokens.visual, self.visual_newline.expand(len(tokens.visual), 1, -1)]

    def _meant(self, semantic: Tensor) -> list[Tensor]:
        # They stand here even if there is none, so that what would make them has a gradient (of zero).
        if self.semantic_newline is None:
            return [semantic]
        return [semantic, self.semantic_newline.expand(len(semantic), 1, -1)]

    def _told(self, tokens: ProjectedTokens) -> list[Tensor]:
        return [] if tokens.characters is None else [tokens.characters]


@dataclass
class RegionOutput:
    """What a training step needs: the masks, the projected tokens and, where questions were asked, the texts' loss."""

    regions: RegionFeatures
    tokens: ProjectedTokens | None = None
    text: TextLoss | None = None


def _checked(first: RegionFeatures | None, read_frames: list, read: Sequence[int]):
    """Both, once it is known that every frame that was to be read is there."""
    if first is None or len(read_frames) != len(read):
        raise PamKitError(f"the clip ended before all of the frames {list(read)} were there, which are to be read")
    return first, read_frames


class _Newest:
    """Passes frames on and holds the one that was asked for last."""

    def __init__(self, frames: Iterable[Tensor]):
        self._frames, self.frame = frames, torch.empty(0)

    def __iter__(self) -> Iterator[Tensor]:
        for frame in self._frames:
            self.frame = frame
            yield frame


class RegionVLM(nn.Module):
    """A vision-language model of regions, made of one part per slot.

    Args:
        backbone, perceiver, projector, decoder: instances of the contracts' abstract classes, of matching widths.
    """

    def __init__(self, backbone: VisionBackbone, perceiver: Perceiver, projector: Projector, decoder: Decoder):
        super().__init__()
        self.backbone, self.perceiver, self.projector, self.decoder = backbone, perceiver, projector, decoder
        projector.num_visual_tokens(backbone.grid)  # raises where the two do not fit
        projector.num_visual_tokens(backbone.grid, later=True)
        merge = perceiver.merged_over_frames if perceiver.clip_tokens else None
        self.prefix = RegionPrefix(decoder.embed_dim, perceiver.num_semantic_tokens > 0, backbone.tracks, merge)

    @classmethod
    def from_recipe(cls, recipe: Recipe, pretrained: Collection[str] = SLOTS) -> "RegionVLM":
        """Build the four parts a recipe names; the model supplies the widths on which they have to agree.

        ``pretrained``: the slots whose pretrained weights are read; the others are about to be filled otherwise.
        """

        def build(slot: str, **widths: int):
            choice = getattr(recipe.model, slot)
            with nullcontext() if slot in pretrained else without_pretrained_weights():
                return find(slot, choice.name).build(**widths, **choice.arguments)

        backbone, decoder = build("backbone"), build("decoder")
        perceiver = build("perceiver", embed_dim=backbone.embed_dim)
        projector = build("projector", embed_dim=backbone.embed_dim, output_dim=decoder.embed_dim)
        return cls(backbone, perceiver, projector, decoder)

    @classmethod
    def from_pretrained(cls, folder: str) -> "RegionVLM":
        """Load a run folder, in eval mode; see pam_kit.checkpoints."""
        from pam_kit.checkpoints import load_model

        return load_model(folder)[0]

    def tokens_per_region(self, frames: int = 1) -> tuple[int, int]:
        """Visual and semantic tokens of a region in an image, or in that many frames of a clip; newlines left out."""
        first = self.projector.num_visual_tokens(self.backbone.grid)
        later = self.projector.num_visual_tokens(self.backbone.grid, later=True) if frames > 1 else 0
        semantic = frames * self.perceiver.num_semantic_tokens
        return first + (frames - 1) * later, min(semantic, self.perceiver.clip_tokens or semantic)

    def prefix_length(self, frames: int = 0) -> int:
        """L: embeddings of a region in an image, or in that many read frames of a clip, newlines included."""
        visual, semantic = self.tokens_per_region(max(1, frames))
        ends = 0 if not semantic else 1 if self.prefix.merges else max(1, frames)
        return visual + semantic + ends + max(1, frames) * (1 + self.perceiver.num_characters) + frames

    def segment(self, images: Tensor, image_index: Tensor, prompts: PromptBatch) -> RegionFeatures:
        """B images and R prompts -> features and masks of R regions; every image is encoded once."""
        regions = self.backbone.segment(self.backbone.encode(images), image_index, prompts)
        return self.with_crops(regions, images, image_index)

    def with_crops(self, regions: RegionFeatures, images: Tensor, image_index: Tensor | None = None) -> RegionFeatures:
        """The regions with the embeddings of the crops that the perceiver asks for; as they are where it asks for none.

        ``images`` (B, 3, S, S) uint8; ``image_index`` (R,) long: which of them each region is in; None where B = 1.
        """
        window = self.perceiver.crop
        if window is None:
            return regions
        boxes = region_boxes(regions)
        index = torch.zeros(len(regions), dtype=torch.long) if image_index is None else image_index
        crops = cropped(images.to(boxes.device), index.to(boxes.device), window.around(boxes))
        # An encoder need not take no picture at all.
        embedding = self.backbone.encode(crops).embedding if len(regions) else regions.source_embedding
        return replace(regions, crop_embedding=embedding)

    def perceive(self, regions: RegionFeatures, later: bool = False) -> ProjectedTokens:
        """Region features -> tokens in the decoder's width; once a region, however many questions follow.

        ``later``: the features are of a frame behind the first of a clip, which may become fewer tokens.
        """
        return self.projected(self.perceived(regions), later)

    def perceived(self, regions: RegionFeatures) -> PerceivedTokens:
        """The first half of ``perceive``: tokens in the backbone's width, from which both kinds of frames are made."""
        tokens = self.perceiver(regions)
        return replace(tokens, mask_logits=regions.mask_logits) if tokens.mask_logits is None else tokens

    def projected(self, tokens: PerceivedTokens, later: bool = False) -> ProjectedTokens:
        """The second half of ``perceive``: tokens in the decoder's width, and the region's text in its words."""
        projected = self.projector(tokens, later)
        if tokens.characters is None:
            return projected
        return replace(projected, characters=self.decoder.spell(tokens.characters))

    def watch(self, batch: ClipBatch) -> list[Watched]:
        """The features of each clip's regions in its first frame, and in the frames that are read.

        Clips are tracked together where the backbone can, else one after the other.
        """
        if self.backbone.tracks_together:
            return self._watched_together(batch)
        return [self._watched(batch, clip) for clip in range(len(batch.frames))]

    def _watched(self, batch: ClipBatch, clip: int) -> Watched:
        first, seen, read = None, [], batch.read[clip]
        prompts = batch.prompts.of_rows(batch.clip_index == clip)
        for index, regions in enumerate(self.backbone.track(batch.frames[clip], prompts)):
            first = regions if first is None else first
            if index in read:
                seen.append(self.with_crops(regions, batch.frames[clip][index][None]))
        return _checked(first, seen, read)

    def _watched_together(self, batch: ClipBatch) -> list[Watched]:
        """One frame of every clip at a time; the regions of a clip that has ended are forgotten."""
        owners, memory = batch.clip_index.tolist(), self.backbone.new_memory()
        firsts: dict[int, RegionFeatures] = {}
        seen: dict[int, list[RegionFeatures]] = {clip: [] for clip in range(len(batch.frames))}
        for index in range(max(map(len, batch.frames), default=0)):
            going = [clip for clip in seen if index < len(batch.frames[clip])]
            staying = [row for row, clip in enumerate(owners) if clip in going]
            if len(staying) < len(owners):
                memory.keep(staying)
                owners = [owners[row] for row in staying]
            images = torch.stack([batch.frames[clip][index] for clip in going]).to(batch.clip_index.device)
            where = batch.clip_index.new_tensor([going.index(clip) for clip in owners])
            prompts, rows = (batch.prompts, range(len(owners))) if index == 0 else (None, range(0))
            regions = self.backbone.observe(self.backbone.encode(images), memory, prompts, rows, where)
            for clip in going:
                if index == 0 or index in batch.read[clip]:
                    own = regions.of_rows([row for row, owner in enumerate(owners) if owner == clip])
                    firsts.setdefault(clip, own)
                    if index in batch.read[clip]:
                        seen[clip].append(self.with_crops(own, batch.frames[clip][index][None]))
        return [_checked(firsts.get(clip), seen[clip], batch.read[clip]) for clip in seen]

    def follow(
        self, frames: Iterable[Tensor], read: Sequence[int], prompts: PromptBatch
    ) -> tuple[RegionFeatures, list[ProjectedTokens]]:
        """Frames (3, S, S) of one clip and R prompts in the first -> features of the first, tokens of the read frames.

        A frame becomes its tokens as soon as it is there; its features are not kept.
        """
        first, tokens, newest = None, [], _Newest(frames)
        for index, regions in enumerate(self.backbone.track(newest, prompts)):
            first = regions if first is None else first
            if index in read:
                tokens.append(self.perceive(self.with_crops(regions, newest.frame[None]), later=index != read[0]))
        return _checked(first, tokens, read)

    def read_clips(
        self, batch: ClipBatch, watch: Callable[[ClipBatch], list[Watched]] | None = None
    ) -> tuple[list[RegionFeatures], list[Tensor]]:
        """-> the features of each clip's regions in its first frame, and the R prefixes (L, D); L differs by clip.

        All clips' frames are perceived together, so that the features of every read frame are held at once.

        Args:
            watch: what follows the regions, in the place of ``watch``: kept features, for example.
        """
        watched = (watch or self.watch)(batch)
        return [first for first, _ in watched], self._prefixes([seen for _, seen in watched])

    def _prefixes(self, clips: list[list[RegionFeatures]]) -> list[Tensor]:
        """The features of the read frames of each clip -> a prefix (L, D) for every region of every clip, in order."""
        openings = self._read([own[0] for own in clips], later=False)
        behind = self._read([regions for own in clips for regions in own[1:]], later=True)
        prefixes = []
        for own in clips:
            prefix = self.prefix([next(openings), *(next(behind) for _ in own[1:])])
            expected = self.prefix_length(len(own))
            if prefix.shape[1] != expected:
                raise PamKitError(
                    f"{len(own)} frames of a clip became {prefix.shape[1]} positions, not {expected}: the projector's "
                    "num_visual_tokens says something else than its forward does"
                )
            prefixes += list(prefix)
        return prefixes

    def _read(self, parts: list[RegionFeatures], later: bool) -> Iterator[ProjectedTokens]:
        """The tokens of each part; all are perceived together."""
        if not parts:
            return iter(())
        together = self.perceive(RegionFeatures.joined(parts), later)
        return iter(together.split([len(part) for part in parts]))

    def clip_parameters(self) -> list[nn.Parameter]:
        """Parameters that images never reach: they are those of later frames and of the separator between frames."""
        own = [] if self.prefix.frame_newline is None else [self.prefix.frame_newline]
        return own + self.projector.clip_parameters()

    def forward(self, batch: RegionBatch) -> RegionOutput:
        """Masks of R regions and the loss of Q answers; every image is encoded once."""
        regions = self.segment(batch.images, batch.image_index, batch.prompts)
        tokens = self.perceive(regions)
        text = self.decoder(self.prefix(tokens), batch.questions) if len(batch.questions) else None
        return RegionOutput(regions, tokens, text)

    @torch.inference_mode()
    def answer(
        self, images: Tensor, image_index: Tensor, prompts: PromptBatch, questions: Questions, max_new_tokens: int
    ) -> tuple[RegionFeatures, list[GeneratedText]]:
        """Masks of R regions and answers to Q questions. Encodes every image once and perceives every region once."""
        regions = self.segment(images, image_index, prompts)
        if not len(questions):
            return regions, []
        return regions, self.decoder.generate(self.prefix(self.perceive(regions)), questions, max_new_tokens)
