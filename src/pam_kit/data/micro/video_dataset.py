"""Moving scenes of the micro dataset, made on the fly: as whole videos, and as clips of one event each."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from pam_kit.contracts import ClipSample, Event, Region, VideoRegion, VideoSample
from pam_kit.data.micro.backgrounds import Backgrounds, make_background, photo_paths
from pam_kit.data.micro.language import COLOUR_WORDS_ZH, KIND_WORDS
from pam_kit.data.micro.story import Act
from pam_kit.data.micro.video_language import EVENTS, all_event_texts, event_texts, find_event_attribute
from pam_kit.data.micro.video_scene import MovingScene, make_moving_scene
from pam_kit.errors import PamKitError
from pam_kit.registry import register

FRAME_RATE = 4.0
# So many videos in a row are looked through for an event before it is taken to be in none.
_FRUITLESS = 500


@dataclass(frozen=True)
class _Settings:
    """Everything but its number that a video depends on."""

    seed: int
    image_size: int
    backgrounds: Backgrounds
    events: int
    steps: int
    min_objects: int
    max_objects: int

    def check(self, name: str, num_samples: int) -> None:
        problems = []
        if num_samples < 1:
            problems.append(f"num_samples is {num_samples}; expected 1 or more")
        if self.seed < 0:
            problems.append(f"seed is {self.seed}; expected 0 or more")
        if not 64 <= self.image_size <= 512:
            problems.append(f"image_size is {self.image_size}; expected 64 to 512")
        if self.backgrounds not in ("procedural", "photo", "mixed"):
            problems.append(f"backgrounds is {self.backgrounds!r}; choose procedural, photo or mixed")
        if not 1 <= self.events <= 64:
            problems.append(f"events_per_video is {self.events}; expected 1 to 64")
        if not 4 <= self.steps <= 16:
            problems.append(f"frames_per_event is {self.steps}; expected 4 to 16")
        if not 1 <= self.min_objects <= self.max_objects <= 8:
            problems.append(
                f"objects a video are {self.min_objects} to {self.max_objects}; "
                "expected 1 <= min_objects <= max_objects <= 8"
            )
        if problems:
            raise PamKitError(f"{name} dataset: " + "; ".join(problems))
        if self.backgrounds != "procedural":
            photo_paths()


@lru_cache(maxsize=2)
def _scene(settings: _Settings, number: int) -> MovingScene:
    """Video ``number``; clips of one video are often read in a row."""
    seeds = np.random.SeedSequence([settings.seed, number, 1]).spawn(2)
    scene_rng, background_rng = (np.random.default_rng(seed) for seed in seeds)
    background = make_background(background_rng, settings.image_size, settings.backgrounds)
    return make_moving_scene(
        scene_rng, background, settings.events, settings.steps, settings.min_objects, settings.max_objects
    )


@register("dataset", "micro_videos")
class MicroVideos:
    """Video ``i`` depends on ``seed`` and ``i`` alone: not on the process, the order of access or ``num_samples``.

    Each sample is a VideoSample. Its regions are the one or two objects that move, each with the visible pixels of
    every frame as masks and with ``events_per_video`` events that follow one another without a gap. What an object
    does is one of moves (left, right, up or down), grows, shrinks, spins, turns (into another colour), hides, leaves,
    returns and stays. An event has a caption in English and Chinese and, as attributes, the facts behind it: event,
    label, colour (at its end), and, where they apply, old_colour, direction and behind. Where an object turns into
    another colour it has it from the first frame of the event on, so that the old one is only known from before; it
    never does that in the first event.

    Other objects stand still; most often some of them share the kind of one that moves in another colour, or its
    colour in another kind.

    Args:
        num_samples: how many videos the dataset has.
        seed: videos of different seeds are unrelated; use another one for a held-out set.
        image_size: side of the square frames, in pixels, 64 to 512.
        backgrounds: "procedural" (drawn), "photo" (crops of the photographs in scikit-image and scikit-learn) or
            "mixed".
        events_per_video: events of each object that moves, 1 to 64.
        frames_per_event: 4 to 16; there are four frames a second.
        min_objects: fewest objects a video; where there is no room for one that stands still, it is left out.
        max_objects: most objects a video; what there is to hide behind comes on top.

    Raises:
        PamKitError: for an argument out of range.
        MissingPackageError: for photographs whose package is not installed.
    """

    videos = True

    def __init__(
        self,
        num_samples: int = 1000,
        seed: int = 0,
        image_size: int = 128,
        backgrounds: Literal["procedural", "photo", "mixed"] = "procedural",
        events_per_video: int = 3,
        frames_per_event: int = 6,
        min_objects: int = 3,
        max_objects: int = 5,
    ):
        self.num_samples = num_samples
        self.settings = _Settings(
            seed, image_size, backgrounds, events_per_video, frames_per_event, min_objects, max_objects
        )
        self.settings.check("micro_videos", num_samples)

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> VideoSample:
        if not 0 <= index < self.num_samples:
            raise IndexError(f"video {index} of a micro_videos dataset of {self.num_samples}")
        scene = _scene(self.settings, int(index))
        frames = [scene.draw(frame) for frame in range(scene.num_frames)]
        ids = [scene.ids(frame) for frame in range(scene.num_frames)]
        regions = [_video_region(scene, number, ids) for number in range(len(scene.actors))]
        return VideoSample(f"micro_videos seed {self.settings.seed}:{index}", frames, FRAME_RATE, regions)

    def texts(self) -> Iterator[str]:
        """Texts that hold every word of both languages, without drawing anything; the same for every seed."""
        return all_event_texts()

    def read_attribute(self, text: str, attribute: str, language: str) -> str | None:
        """What a caption says of an attribute; None where it says nothing."""
        return find_event_attribute(text, attribute, language)


@register("dataset", "micro_clips")
class MicroClips:
    """One event a sample, of the videos that ``micro_videos`` has with the same arguments.

    Each sample is a ClipSample whose one region is an object that moves; its caption says what it does in the clip.
    As in a stream, the last frame of the event before may open the clip, and what was said of that event may be its
    history; a model that is to do with and without them learns both. The first event of a video has neither.

    The region is pointed at in the clip's first frame. Where the object is out of sight there, as where it comes back,
    the last frame in which it was seen leads up to the clip: in it the object is pointed at, but it is not read.

    Attributes of the region are those of the event in ``micro_videos``, and "carried", whether the last frame of the
    event before is in the clip.

    Args:
        num_samples: how many events the dataset has; sample i is event i % events_per_video of video
            i // events_per_video.
        seed: as in micro_videos, as all arguments that are not described here.
        image_size: side of the square frames, in pixels, 64 to 512.
        backgrounds: "procedural", "photo" or "mixed".
        events_per_video: events of each object that moves, 1 to 64.
        frames_per_event: 4 to 16.
        min_objects: fewest objects a video.
        max_objects: most objects a video.
        carry: share of the clips that open with the last frame of the event before, 0 to 1.
        history: share of the clips that know the caption of the event before, 0 to 1.
        only: names of events, such as [turns], to which the dataset is restricted: sample i is then the i-th of these,
            and otherwise what it is among all of them.

    Raises:
        PamKitError: for an argument out of range, and for events that no video has.
        MissingPackageError: for photographs whose package is not installed.
    """

    clips = True

    def __init__(
        self,
        num_samples: int = 3000,
        seed: int = 0,
        image_size: int = 128,
        backgrounds: Literal["procedural", "photo", "mixed"] = "procedural",
        events_per_video: int = 3,
        frames_per_event: int = 6,
        min_objects: int = 3,
        max_objects: int = 5,
        carry: float = 0.65,
        history: float = 0.65,
        only: list[str] | None = None,
    ):
        self.num_samples, self.carry, self.history, self.only = num_samples, carry, history, only
        self.settings = _Settings(
            seed, image_size, backgrounds, events_per_video, frames_per_event, min_objects, max_objects
        )
        self.settings.check("micro_clips", num_samples)
        for name, share in (("carry", carry), ("history", history)):
            if not 0 <= share <= 1:
                raise PamKitError(f"micro_clips dataset: {name} is {share}; expected 0 to 1")
        if only is not None and (not only or not set(only) <= set(EVENTS)):
            raise PamKitError(f"micro_clips dataset: only is {only}; expected some of {', '.join(EVENTS)}, or null")
        self._found: list[int] = []
        self._searched = 0

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> ClipSample:
        if not 0 <= index < self.num_samples:
            raise IndexError(f"clip {index} of a micro_clips dataset of {self.num_samples}")
        place = int(index) if self.only is None else self._place_of(int(index))
        video, number = divmod(place, self.settings.events)
        scene = _scene(self.settings, video)
        rng = np.random.default_rng([self.settings.seed, place, 2])
        carried, told = (number > 0 and bool(rng.random() < share) for share in (self.carry, self.history))
        shown, lead = _shown_frames(scene, number, carried)
        acts = scene.actors[0].acts
        attributes = acts[number].facts.attributes() | {"carried": carried}
        region = Region("0", mask=scene.mask(shown[0], 0), texts=_texts(acts[number]), attributes=attributes)
        history = dict(_texts(acts[number - 1])["caption"]) if told else {}
        frames = [scene.draw(frame) for frame in shown]
        return ClipSample(f"micro_clips seed {self.settings.seed}:{place}", frames, [region], history, lead)

    def _place_of(self, index: int) -> int:
        """Where event ``index`` of those in ``only`` stands among all events."""
        last = self._searched
        while index >= len(self._found):
            acts = _scene(self.settings, self._searched).actors[0].acts
            first = self._searched * self.settings.events
            self._found += [first + i for i, act in enumerate(acts) if act.facts.event in (self.only or ())]
            self._searched += 1
            last = self._searched if self._found and self._found[-1] >= first else last
            if self._searched - last > _FRUITLESS:
                raise PamKitError(
                    f"micro_clips dataset: none of {_FRUITLESS} videos has an event of only={self.only} with "
                    f"events_per_video={self.settings.events}"
                )
        return self._found[index]

    def texts(self) -> Iterator[str]:
        """Texts that hold every word of both languages, without drawing anything; the same for every seed."""
        return all_event_texts()

    def read_attribute(self, text: str, attribute: str, language: str) -> str | None:
        """What a caption says of an attribute; None where it says nothing."""
        return find_event_attribute(text, attribute, language)


def _shown_frames(scene: MovingScene, number: int, carried: bool) -> tuple[list[int], int]:
    """The frames of the clip of event ``number``, its own and those from before, and how many lead up to it."""
    first = number * scene.steps
    shown = list(range(first - 1 if carried else first, first + scene.steps))
    if scene.in_sight(shown[0], 0):
        return shown, 0
    seen = next((frame for frame in range(shown[0] - 1, -1, -1) if scene.in_sight(frame, 0)), None)
    # Nothing comes before the first frame, and there objects are placed in sight.
    return (shown, 0) if seen is None else ([seen, *shown], 1)


def _video_region(scene: MovingScene, number: int, ids: list[np.ndarray]) -> VideoRegion:
    actor = scene.actors[number]
    events = [
        Event(i * scene.steps, (i + 1) * scene.steps - 1, _texts(act), dict(act.facts.attributes()))
        for i, act in enumerate(actor.acts)
    ]
    attributes = {
        "label": actor.look.kind,
        "label_zh": KIND_WORDS[actor.look.kind].zh,
        "colour": actor.look.colour,
        "colour_zh": COLOUR_WORDS_ZH[actor.look.colour],
        "texture": actor.look.texture,
    }
    masks = [frame_ids == number for frame_ids in ids]
    return VideoRegion(str(number), masks=masks, events=events, attributes=attributes)


def _texts(act: Act) -> dict[str, dict[str, str]]:
    return event_texts(act.facts)
