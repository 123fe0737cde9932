"""A running commentary: events in order, objects out of sight, prompts by frame, and long videos in one text."""

import numpy as np
import pytest

from pam_kit.contracts import RegionPrompt
from pam_kit.data.video import Frame
from pam_kit.errors import PromptError
from pam_kit.inference.change_triggers import MaskChangeTrigger, SceneChangeTrigger
from pam_kit.inference.commentary import comment
from pam_kit.inference.long_description import LongDescription, Passage, describe_long
from pam_kit.inference.stream_records import Description, StateChange, StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.triggers import AnyTrigger, AtTrigger, EveryTrigger
from pam_kit.inference.video_result import FramePrompt

BOX = RegionPrompt(box=(4, 10, 24, 30))
OTHER = RegionPrompt(points=((60, 20),), labels=(1,))
FIRST = (FramePrompt(1, 0, BOX),)
NEVER = AnyTrigger([])


def coming(frames, rate=10.0):
    return [Frame(image, index / rate, index) for index, image in enumerate(frames)]


def stream_of(model, **changes) -> RegionStream:
    values = {"clip_frames": 4, "read_every": 0.1, "max_new_tokens": 3, "lost_after": 0.2}
    return RegionStream(model, StreamSettings(**values | changes))


def told(model, frames, trigger, prompts=FIRST, **changes) -> list[dict]:
    return [event.to_json() for event in comment(coming(frames), stream_of(model, **changes), trigger, prompts)]


def captions(events: list[dict]) -> list[tuple]:
    return [(e["start"], e["end"], e["reason"], e["state"]) for e in events if e["event"] == "caption"]


def states(events: list[dict]) -> list[tuple]:
    return [(e["state"], e["time"], e["frame"]) for e in events if e["event"] == "state"]


def test_an_object_goes_out_of_sight_and_comes_back(video_model, moving_square, hidden):
    hidden({3, 4, 5, 6, 9})
    events = told(video_model, moving_square(12), EveryTrigger(0.5), clip_frames=16)
    assert states(events) == [
        ("present", 0.0, 0),
        ("occluded", 0.3, 3),
        ("lost", 0.5, 5),
        ("found", 0.7, 7),
        ("occluded", 0.9, 9),
        ("found", 1.0, 10),
    ]
    assert captions(events) == [
        (0.0, 0.5, "every 0.5s", "lost"),
        (0.5, 1.0, "every 0.5s", "present"),
        (1.0, 1.1, "end", "present"),
    ]
    # In the order of time, and within a frame the state before what is said of it.
    assert [e.get("time", e.get("end")) for e in events] == sorted(e.get("time", e.get("end")) for e in events)
    assert [e["event"] for e in events if e.get("time", e.get("end")) == 0.5] == ["state", "caption"]
    assert all(e["texts"]["caption"]["en"]["text"] for e in events if e["event"] == "caption")


def test_nothing_is_said_about_a_clip_in_which_it_was_out_of_sight(video_model, moving_square, hidden):
    hidden(set(range(3, 9)))
    events = told(video_model, moving_square(11), EveryTrigger(0.3), clip_frames=16)
    said = [event for event in events if event["event"] == "caption"]
    assert [bool(one["texts"]) for one in said] == [True, False, True, True]
    assert [(one["start"], one["end"], one["state"]) for one in said[:2]] == [(0, 0.3, "occluded"), (0.3, 0.6, "lost")]


@pytest.mark.parametrize("score_only", [False, True])
def test_an_object_that_is_never_there_is_lost_from_the_start(video_model, moving_square, hidden, score_only):
    """Also where a mask is drawn because it is pointed at."""
    hidden(set(range(100)), score_only)
    events = told(video_model, moving_square(5), EveryTrigger(0.2), clip_frames=16)
    first, *rest = events
    assert first == {"event": "state", "region": 1, "state": "lost", "time": 0.0, "frame": 0, "never_seen": True}
    assert [(one["event"], one["state"], one["texts"]) for one in rest] == [("caption", "lost", {})] * 2


def test_a_full_clip_is_described_unasked(video_model, moving_square):
    events = told(video_model, moving_square(9), NEVER)
    assert captions(events) == [
        (0.0, 0.3, "clip full", "present"),
        (0.3, 0.6, "clip full", "present"),
        (0.6, 0.8, "end", "present"),
    ]
    assert [event["frames_read"] for event in events if event["event"] == "caption"] == [4, 4, 3]


def test_of_a_full_clip_only_its_own_region_is_described(video_model, moving_square):
    """The other one joined a frame before; its clip goes on until it is full itself."""
    prompts = [FramePrompt(1, 0, BOX), FramePrompt(2, 2, OTHER)]
    events = told(video_model, moving_square(8), NEVER, prompts)
    said = [(e["region"], e["start"], e["end"], e["frames_read"]) for e in events if e["event"] == "caption"]
    assert said == [(1, 0.0, 0.3, 4), (2, 0.2, 0.5, 4), (1, 0.3, 0.6, 4), (1, 0.6, 0.7, 2), (2, 0.5, 0.7, 3)]


def test_a_region_that_joins_when_others_are_spoken_of_waits(video_model, moving_square):
    prompts = [FramePrompt(1, 0, BOX), FramePrompt(2, 3, OTHER)]
    events = told(video_model, moving_square(8), EveryTrigger(0.3), prompts, clip_frames=16)
    said = [(e["region"], e["start"], e["end"]) for e in events if e["event"] == "caption"]
    assert said == [(1, 0.0, 0.3), (1, 0.3, 0.6), (2, 0.3, 0.6), (1, 0.6, 0.7), (2, 0.6, 0.7)]


@pytest.mark.parametrize("frame", [5, 6])
def test_what_was_due_before_there_was_a_region_is_not_made_up_for(video_model, moving_square, frame):
    """Neither a period, also one that ends in the prompt's frame, nor a cut."""
    picture = moving_square(1)[0]
    frames = [picture] * 3 + [picture[::-1, ::-1].copy()] * 7
    trigger = AnyTrigger([EveryTrigger(0.3), SceneChangeTrigger(0.4)])
    events = told(video_model, frames, trigger, [FramePrompt(1, frame, BOX)], clip_frames=16)
    first = 0.9 if frame == 6 else 0.6
    assert captions(events)[0] == (frame / 10, first, "every 0.3s", "present")
    events = told(video_model, frames[:4], SceneChangeTrigger(0.4))
    assert captions(events)[0] == (0.0, 0.3, "scene change", "present")


def test_times_without_a_region_are_missed(video_model, moving_square):
    trigger = AtTrigger([0.1, 0.2, 0.4])
    events = told(video_model, moving_square(6), trigger, [FramePrompt(1, 2, BOX)], clip_frames=16)
    assert captions(events) == [
        (0.2, 0.2, "at 0.2s", "present"),
        (0.2, 0.4, "at 0.4s", "present"),
        (0.4, 0.5, "end", "present"),
    ]
    assert trigger.missed == [0.1] and not trigger.remaining


def test_a_trigger_knows_the_regions_by_number(video_model, moving_square):
    """Also where one of a lower number joins later; of those out of sight it sees no mask."""
    seen = []

    class Watching(AnyTrigger):
        def should_speak(self, frame):
            seen.append(frame)

    prompts = [FramePrompt(5, 0, BOX), FramePrompt(2, 2, OTHER)]
    stream, reports = stream_of(video_model, clip_frames=16), []
    list(comment(coming(moving_square(4)), stream, Watching([]), prompts, lambda frame, report: reports.append(report)))
    assert [frame.regions for frame in seen] == [(5,), (5,), (2, 5), (2, 5)]
    for frame, report in zip(seen, reports, strict=True):
        for region, mask in zip(frame.regions, frame.masks, strict=True):
            assert report.regions[region].in_sight
            np.testing.assert_array_equal(mask, report.regions[region].coarse)


def test_a_trigger_sees_no_mask_of_what_is_out_of_sight(video_model, moving_square, hidden):
    hidden({2}, score_only=True)
    events = told(video_model, moving_square(3), MaskChangeTrigger(0.9, settle=0), clip_frames=16)
    assert captions(events)[0] == (0.0, 0.2, "mask change", "occluded")


def test_what_was_said_is_not_said_again_where_its_reader_goes(video_model, moving_square):
    """The reader goes while the caption is written, so that nothing behind it is run."""
    stream, trigger = stream_of(video_model, clip_frames=16), EveryTrigger(0.2)
    frames = coming(moving_square(6))
    running = comment(frames, stream, trigger, FIRST)
    assert isinstance(next(running), StateChange) and isinstance(next(running), Description)
    running.close()
    assert stream.frames == 3
    rest = [event.to_json() for event in comment(frames[3:], stream, trigger, ())]
    assert captions(rest) == [(0.2, 0.4, "every 0.2s", "present"), (0.4, 0.5, "end", "present")]


def test_frames_behind_the_last_description_are_spoken_about_at_the_end(video_model, moving_square):
    for rate in (0.1, 5.0):  # also where none of them was read on the way
        events = told(video_model, moving_square(8), AtTrigger([0.5]), clip_frames=16, read_every=rate)
        assert captions(events)[-1] == (0.5, 0.7, "end", "present")
    events = told(video_model, moving_square(6), AtTrigger([0.5]), clip_frames=16)
    assert captions(events) == [(0.0, 0.5, "at 0.5s", "present")]


def test_times_behind_the_end_are_left(video_model, moving_square):
    trigger = AtTrigger([0.2, 3.0, 4.0])
    assert captions(told(video_model, moving_square(4), trigger))[0][2] == "at 0.2s"
    assert trigger.remaining == (3.0, 4.0)


def test_regions_are_pointed_at_in_their_frames(video_model, moving_square):
    prompts = [
        FramePrompt(2, 3, RegionPrompt(points=((60, 20),), labels=(1,))),
        FramePrompt(1, 1, BOX),
        FramePrompt(2, 3, RegionPrompt(points=((5, 5),), labels=(0,))),
    ]
    stream, reports = stream_of(video_model, clip_frames=16), []
    events = list(
        comment(coming(moving_square(6)), stream, NEVER, prompts, lambda frame, report: reports.append(report))
    )
    assert [sorted(report.regions) for report in reports] == [[], [1], [1], [1, 2], [1, 2], [1, 2]]
    assert reports[3].pointed == {2: RegionPrompt(points=((60, 20), (5, 5)), labels=(1, 0))}
    assert [(event.region, event.start) for event in events if isinstance(event, Description)] == [(1, 0.1), (2, 0.3)]


def test_a_prompt_whose_frame_was_dropped_points_into_the_next_one(video_model, moving_square):
    frames = [frame for frame in coming(moving_square(6)) if frame.index not in (2, 3)]
    reports = []
    list(comment(frames, stream_of(video_model), NEVER, [FramePrompt(1, 2, BOX)], lambda f, r: reports.append((f, r))))
    assert [frame.index for frame, report in reports if report.pointed] == [4]


def test_a_prompt_behind_the_last_frame_is_told_when_the_frames_have_ended(video_model, moving_square):
    prompts, events = [FramePrompt(1, 0, BOX), FramePrompt(2, 9, BOX)], []
    with pytest.raises(PromptError, match="region 2 is to be pointed at in frame 9, but the last frame is 3"):
        events += comment(coming(moving_square(4)), stream_of(video_model), NEVER, prompts)
    with pytest.raises(PromptError, match="region 2, pointed at in frame 9: box .* does not fit"):
        prompts[1] = FramePrompt(2, 9, RegionPrompt(box=(0, 0, 100, 9)))
        list(comment(coming(moving_square(4)), stream_of(video_model), NEVER, prompts))


def test_a_prompt_is_told_where_no_frame_comes(video_model, moving_square):
    """As of a stored video that a stream which was brought back has seen to its end."""
    stream, prompts = stream_of(video_model), [FramePrompt(3, 9, BOX), FramePrompt(2, 9, BOX), FramePrompt(4, 12, BOX)]
    with pytest.raises(PromptError, match="region 2 is to be pointed at in frame 9, but there is no frame"):
        list(comment([], stream, NEVER, prompts))
    list(comment(coming(moving_square(4)), stream, NEVER, FIRST))
    with pytest.raises(PromptError, match="region 2 is to be pointed at in frame 9, but the last frame is 3"):
        list(comment([], stream, NEVER, prompts))


def test_a_frame_of_another_size_ends_it_and_the_stream_stays_as_it_was(video_model, moving_square):
    frames = [*moving_square(3), *moving_square(1, (40, 40))]
    stream, events = stream_of(video_model), []
    with pytest.raises(Exception, match="frame 3 has 40x40 pixels, the frames before it 80x48"):
        for event in comment(coming(frames), stream, NEVER, [FramePrompt(1, 0, BOX)]):
            events.append(event)
    assert stream.frames == 3 and [event.to_json()["state"] for event in events] == ["present"]
    assert stream.describe()[0].frames_read == 3


def test_a_long_video_becomes_one_text(video_model, moving_square, hidden):
    hidden({4, 5, 6, 7})
    events = []
    said = describe_long(
        coming(moving_square(10)),
        stream_of(video_model, languages=("en", "zh"), clip_frames=16),
        0.3,
        [FramePrompt(1, 0, BOX), FramePrompt(4, 0, RegionPrompt(box=(1, 1, 40, 40)))],
        on_event=events.append,
    )
    assert [(one.region, one.language) for one in said] == [(1, "en"), (1, "zh"), (4, "en"), (4, "zh")]
    spoken = [event for event in events if isinstance(event, Description) and event.region == 1]
    for one in said[:2]:
        assert [(p.start, p.end) for p in one.passages] == [(e.start, e.end) for e in spoken]
        assert [p.text for p in one.passages] == [
            e.texts["caption"][one.language].text if e.texts else "" for e in spoken
        ]
    assert [bool(passage.text) for passage in said[0].passages] == [True, False, True]
    assert said[0].text().splitlines()[1].endswith("(out of sight)")
    assert said[0].to_json()["passages"][0]["start"] == 0.0


def test_clips_of_which_the_same_is_said_are_one_passage(video_model, moving_square, monkeypatch):
    answers = iter(["it moves", "it moves", "it stands", "it stands", "it moves"])
    describe = RegionStream.describe

    def same(self, regions=None, reason="asked"):
        said = describe(self, regions, reason)
        for one in said:
            one.texts["caption"]["en"].text = next(answers)
        return said

    monkeypatch.setattr(RegionStream, "describe", same)
    said = describe_long(
        coming(moving_square(10)), stream_of(video_model, clip_frames=16), 0.2, [FramePrompt(1, 0, BOX)]
    )
    assert said[0].passages == [
        Passage(0.0, 0.4, "it moves"),
        Passage(0.4, 0.8, "it stands"),
        Passage(0.8, 0.9, "it moves"),
    ]


def test_time_stamps_are_minutes_and_seconds():
    passages = [Passage(0, 59.96, "it walks"), Passage(59.96, 125.04, ""), Passage(3600, 3661.5, "它坐着")]
    assert LongDescription(1, "en", passages).text() == (
        "[0:00.0 - 1:00.0] it walks\n[1:00.0 - 2:05.0] (out of sight)\n[60:00.0 - 61:01.5] 它坐着"
    )
