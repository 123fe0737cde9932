"""Point at objects anywhere in a video; get a mask for every frame, and texts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pam_kit.contracts import GeneratedText, Precision, ProjectedTokens, RegionFeatures, RegionPrompt
from pam_kit.data.video import Frame, VideoSource, open_video
from pam_kit.errors import PromptError
from pam_kit.inference.clip_room import check_clip_room
from pam_kit.inference.following import RegionFollower, SeenRegion, seen_regions
from pam_kit.inference.frame_choice import FrameChoice, frame_choice
from pam_kit.inference.latency import Latency
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.presence import PresenceTracker
from pam_kit.inference.stream_clip import Asking
from pam_kit.inference.video_result import (
    FramePrompt,
    RegionFrame,
    VideoPrediction,
    VideoRegionPrediction,
    prompts_by_frame,
)
from pam_kit.model import RegionVLM

Progress = Callable[..., Iterable]


@dataclass(eq=False)
class _Followed:
    """One region on its way: where it is pointed at, what was seen of it, what of it will be read."""

    region: int
    prompts: dict[int, RegionPrompt]
    choice: FrameChoice
    seen: dict[int, RegionFrame] = field(default_factory=dict)
    tokens: dict[int, ProjectedTokens] = field(default_factory=dict)

    @property
    def first(self) -> int:
        """The frame in which it is first pointed at, and which is read like a picture."""
        return min(self.prompts)

    def read_order(self) -> list[int]:
        """The prompted frame, then the others in the order of time."""
        return [self.first, *sorted(index for index in self.tokens if index != self.first)]


class VideoPredictor:
    """Follows regions through whole videos with one trained model, and says what they do.

    Objects are followed both ways from the frame in which they are first pointed at; later prompts of the same object
    correct it from there on. All objects go through the video together: every frame is encoded once a direction.

    Args:
        model: a RegionVLM whose backbone tracks; it is put into eval mode.
        device: where to compute; the first accelerator by default, else the CPU.
        precision: what the decoder computes in from now on, see ``Decoder.lower_precision``; null leaves it as it is.

    Example:
        >>> predictor = VideoPredictor.from_run("runs/pam_tiny_video")
        >>> found = predictor.predict("dog.mp4", [FramePrompt(1, 12, RegionPrompt(box=(300, 200, 500, 420)))])
        >>> found.regions[0].texts["caption"]["en"].text, found.regions[0].frames[40].box
    """

    def __init__(self, model: RegionVLM, device: torch.device | str | None = None, precision: Precision | None = None):
        pictures = RegionPredictor(model, device, precision=precision)
        self.model, self.device = pictures.model, pictures.device

    @classmethod
    def from_run(
        cls, folder: str | Path, device: torch.device | str | None = None, precision: Precision | None = None
    ) -> "VideoPredictor":
        """Load the model of a run folder."""
        return cls(RegionVLM.from_pretrained(str(folder)), device, precision)

    @torch.inference_mode()
    def predict(
        self,
        source: str | Path | Sequence | VideoSource,
        prompts: Sequence[FramePrompt],
        tasks: Sequence[str] = ("caption",),
        languages: Sequence[str] = ("en",),
        frames: int = 16,
        sampler: str = "uniform",
        max_new_tokens: int = 64,
        history: Mapping[str, str] | None = None,
        progress: Progress = lambda items, **_: items,
        words: str | None = None,
    ) -> VideoPrediction:
        """A video file, a folder or list of pictures, or an opened source -> masks of all frames, and texts.

        Args:
            prompts: where the objects are; several of one region and several regions are legal.
            frames: how many frames the decoder reads of each region.
            sampler: which: see ``frame_choice``.
            history: what was said about the video before, by language.
            progress: wraps the frames of each direction, for example tqdm.
            words: what is asked in the place of the tasks' own words.

        Raises:
            PromptError: a prompt does not fit its frame, or its frame is not there.
            VideoError: the video cannot be read.
            PamKitError: the frames that are read, a question and its answer are too long for the decoder.
        """
        opened = nullcontext(source) if isinstance(source, VideoSource) else open_video(source)
        with opened as video:
            count = video.num_frames or sum(1 for _ in video.frames())
            followed = _by_region(prompts, video, count, frames, sampler)
            asked = Asking(tuple(tasks), tuple(languages), max_new_tokens, words)
            read = count if sampler == "all" else min(frames, count)
            check_clip_room(self.model, read, asked, history or {})
            latency = Latency(self.device)
            first, last = min(one.first for one in followed), max(one.first for one in followed)
            ahead = progress(video.frames(first), total=count - first, desc="forward")
            self._follow(ahead, followed, latency, forward=True)
            _check_reached(followed, video)
            if last > 0:
                back = progress(video.reversed(last), total=last + 1, desc="backward")
                self._follow(back, followed, latency, forward=False)
            with latency.stage("decode"):
                texts = self._texts(followed, asked, history or {})
            return VideoPrediction(
                source=video.name,
                width=video.width,
                height=video.height,
                frame_rate=video.frame_rate,
                num_frames=len(followed[0].seen),
                regions=[_result(one, said) for one, said in zip(followed, texts, strict=True)],
                damage=video.damage,
                latency=latency.summary(),
            )

    def _follow(self, frames: Iterable[Frame], followed: list[_Followed], latency: Latency, forward: bool) -> None:
        """One pass; a region joins in the frame in which it is first pointed at."""
        follower, rows = RegionFollower(self.model, latency), []
        for frame in frames:
            rows += [one for one in followed if one.first == frame.index]
            # On the way back a region is pointed at only where it was first: later prompts lie behind it.
            pointing = [
                (i, one.prompts[frame.index])
                for i, one in enumerate(rows)
                if frame.index in one.prompts and (forward or frame.index == one.first)
            ]
            regions = follower.step(frame.image, pointing)
            new = [i for i, one in enumerate(rows) if forward or frame.index != one.first]
            self._note(follower, regions, frame, rows, new)

    def _note(
        self, follower: RegionFollower, regions: RegionFeatures, frame: Frame, rows: list[_Followed], new: list[int]
    ) -> None:
        """Keep the masks of a frame and, of the regions that read it, the tokens."""
        seen = seen_regions(regions, frame.image.shape[:2])
        reading: dict[bool, list[int]] = {}
        for i in new:
            rows[i].seen[frame.index] = RegionFrame.of(seen[i], frame.index, frame.time)
            if _wants(rows[i], frame.index, seen[i]):
                reading.setdefault(frame.index != rows[i].first, []).append(i)
        for later, chosen in reading.items():
            projected = follower.projected(follower.perceived(regions.of_rows(chosen)), later)
            for place, i in enumerate(chosen):
                # A copy: a row would keep those of all regions, also once they are dropped.
                rows[i].tokens[frame.index] = projected.of_rows([place])

    def _texts(
        self, followed: list[_Followed], asking: Asking, history: Mapping[str, str]
    ) -> list[dict[str, dict[str, GeneratedText]]]:
        """The answers about each region: task -> language -> text; all are decoded as one batch.

        Of an object that was in sight in no frame nothing is said.
        """
        told = [row for row, one in enumerate(followed) if any(frame.in_sight for frame in one.seen.values())]
        read = [(followed[row].tokens, followed[row].read_order()) for row in told]
        prefixes = [self.model.prefix([tokens[index] for index in order])[0] for tokens, order in read]
        questions = asking.questions(history, range(len(told)))
        texts: list[dict[str, dict[str, GeneratedText]]] = [{} for _ in followed]
        answers = self.model.decoder.generate(prefixes, questions, asking.max_new_tokens) if len(questions) else []
        about = zip(questions.region_index.tolist(), questions.tasks, questions.languages, answers, strict=True)
        for region, task, language, answer in about:
            texts[told[region]].setdefault(task, {})[language] = answer
        return texts


def _by_region(
    prompts: Sequence[FramePrompt], video: VideoSource, count: int, frames: int, sampler: str
) -> list[_Followed]:
    """The regions in ascending order, each with its prompts."""
    if not prompts:
        raise PromptError("nothing to look at: give at least one prompt")
    for one in prompts:
        if not 0 <= one.frame < count:
            raise PromptError(
                f"region {one.region} is pointed at in frame {one.frame} of a video of {count} frames; "
                f"frames are numbered 0 to {count - 1}"
            )
    pointed: dict[int, dict[int, RegionPrompt]] = {}
    for frame, by_region in prompts_by_frame(prompts, video.width, video.height).items():
        for region, prompt in by_region.items():
            pointed.setdefault(region, {})[frame] = prompt
    return [
        _Followed(region, own, frame_choice(sampler, count, frames, min(own)))
        for region, own in sorted(pointed.items())
    ]


def _check_reached(followed: list[_Followed], video: VideoSource) -> None:
    for one in followed:
        if one.first not in one.seen:
            why = video.damage or f"{video.name} ends before it"
            raise PromptError(f"region {one.region} is pointed at in frame {one.first}, which cannot be read: {why}")


def _wants(one: _Followed, index: int, seen: SeenRegion) -> bool:
    chosen, dropped = one.choice.offer(index, seen.coarse)
    if dropped is not None:
        one.tokens.pop(dropped, None)
    return chosen


def _result(one: _Followed, texts: dict[str, dict[str, GeneratedText]]) -> VideoRegionPrediction:
    frames = [one.seen[index] for index in sorted(one.seen)]
    presence = PresenceTracker(first_frame=frames[0].index)
    transitions = [change for f in frames for change in presence.update(f.object_score, f.area, f.time)]
    prompts = [FramePrompt(one.region, frame, prompt) for frame, prompt in one.prompts.items()]
    return VideoRegionPrediction(one.region, prompts, frames, transitions, one.read_order(), texts)
