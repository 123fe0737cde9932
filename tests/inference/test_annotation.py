"""Annotated frames: masks, numbers, states and subtitles, and the videos they are written into."""

import numpy as np
import pytest

from pam_kit.contracts import GeneratedText, RegionPrompt
from pam_kit.data.video import Frame, open_video
from pam_kit.errors import PamKitError
from pam_kit.inference.annotated_video import AnnotatedStream, write_annotated
from pam_kit.inference.annotation import MIN_SIDE, FrameAnnotator
from pam_kit.inference.marks import region_colour
from pam_kit.inference.panel import BACKGROUND
from pam_kit.inference.presence import Transition
from pam_kit.inference.stream_records import Description, FrameReport, StateChange, StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.tracker import VideoPredictor
from pam_kit.inference.video_result import FramePrompt

GREY = np.full((48, 80, 3), 90, dtype=np.uint8)
MASK = np.zeros((48, 80), dtype=bool)
MASK[10:40, 20:60] = True
BOX = RegionPrompt(box=(20, 10, 60, 40))


def texts(*sentences: str) -> dict:
    return {"caption": {str(i): GeneratedText(text, 0.5) for i, text in enumerate(sentences)}}


def ink(panel: np.ndarray) -> int:
    return int((panel != np.array(BACKGROUND)).any(2).sum())


@pytest.mark.parametrize("size", [(80, 48), (41, 33), (1281, 719), (7, 300)])
def test_frames_have_even_sides_and_small_ones_are_enlarged(size):
    annotator = FrameAnnotator(size, 2)
    width, height = annotator.size
    assert width % 2 == height % 2 == 0 and max(size) * annotator.scale >= min(MIN_SIDE, max(annotator.size))
    drawn = annotator.draw(np.zeros((size[1], size[0], 3), np.uint8), {}, {}, {})
    assert drawn.shape == (height, width, 3) and drawn.dtype == np.uint8
    assert annotator.scale == 1 or max(size) * (annotator.scale - 1) < MIN_SIDE


def test_a_region_is_tinted_numbered_and_described():
    annotator = FrameAnnotator((80, 48), 1, ("0", "1"))
    scale = annotator.scale
    drawn = annotator.draw(GREY, {1: MASK}, {1: "present"}, {1: texts("a red square", "it moves")})
    picture, panel = drawn[: 48 * scale : scale, : 80 * scale : scale], drawn[48 * scale :]
    outside = ~MASK
    outside[8:42, 18:62] = False
    assert (picture[outside] == 90).all()
    # Towards the region's colour, a third of the way.
    inner = picture[14:18, 24:30].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(inner, 0.66 * 90 + 0.34 * np.array(region_colour(0)), atol=6)
    badge = drawn[48 * scale :, : 20 * scale]
    assert (np.abs(badge.astype(int) - region_colour(0)).sum(2) < 30).sum() > 50
    bare = annotator.draw(GREY, {1: MASK}, {1: "present"}, {})[48 * scale :]
    assert ink(panel) > ink(bare) > 0
    assert np.array_equal(picture, annotator.draw(GREY, {1: MASK}, {1: "lost"}, {})[: 48 * scale : scale, ::scale])


def test_a_prompt_is_shown_though_there_is_no_mask():
    annotator, nothing = FrameAnnotator((80, 48), 1), np.zeros((48, 80), bool)
    plain = annotator.draw(GREY, {1: nothing}, {}, {})
    pointed = annotator.draw(GREY, {1: nothing}, {}, {}, {1: BOX})
    assert not np.array_equal(plain, pointed)
    assert np.array_equal(plain[48 * annotator.scale :], pointed[48 * annotator.scale :])


def test_known_texts_get_just_enough_room_and_others_are_cut_off():
    long = texts("word " * 120)
    known = FrameAnnotator((640, 480), 1, ("0",), texts={1: long})
    unknown = FrameAnnotator((640, 480), 1, ("0",))
    short = FrameAnnotator((640, 480), 1, ("0",), texts={1: texts("word")})
    assert known.size[1] > unknown.size[1] > short.size[1] > 480
    picture = np.zeros((480, 640, 3), np.uint8)
    whole = known.draw(picture, {}, {1: "present"}, {1: long})[480:]
    assert ink(whole[-60:]) > 0 and not ink(whole[-6:])  # filled, with a margin
    assert unknown.draw(picture, {}, {1: "present"}, {1: long}).shape[:2] == unknown.size[::-1]


def test_the_panel_is_drawn_anew_only_where_it_changes(monkeypatch):
    from pam_kit.inference import annotation

    count, draw_panel = [], annotation.draw_panel
    monkeypatch.setattr(annotation, "draw_panel", lambda *given: (count.append(1), draw_panel(*given))[1])
    annotator = FrameAnnotator((80, 48), 1, ("0",))
    for state, sentence in (("present", "a"), ("present", "a"), ("lost", "a"), ("lost", "b"), ("lost", "b")):
        annotator.draw(GREY, {1: MASK}, {1: state}, {1: texts(sentence)})
    assert len(count) == 3


def test_states_of_a_finished_video(video_model, moving_square, hidden, tmp_path, monkeypatch):
    """Each frame with the mask and the state it has in the prediction."""
    drawn, draw = [], FrameAnnotator.draw

    def noted(self, image, masks, states, *rest):
        drawn.append((int(masks[1].sum()), states[1]))
        return draw(self, image, masks, states, *rest)

    monkeypatch.setattr(FrameAnnotator, "draw", noted)
    hidden({2, 3})
    with open_video(moving_square(6)) as video:
        found = VideoPredictor(video_model).predict(video, [FramePrompt(1, 0, BOX)], max_new_tokens=2)
        assert write_annotated(found, video, tmp_path / "out.mp4") == tmp_path / "out.mp4"
    assert [state for _, state in drawn] == ["present", "present", "occluded", "occluded", "present", "present"]
    assert [area for area, _ in drawn] == [frame.area for frame in found.regions[0].frames]


def stream_into(annotated, model, frames) -> None:
    stream = RegionStream(model, StreamSettings(read_every=0.0, frame_rate=10, max_new_tokens=2))
    stream.prompt(BOX)
    for index, frame in enumerate(frames):
        annotated.on_frame(Frame(frame, 5 + index / 10, index), stream.push(frame))


def test_a_stream_is_written_as_it_goes_from_its_first_frame_on(video_model, moving_square, tmp_path):
    with AnnotatedStream(tmp_path / "out.mp4", 10, 1) as annotated:
        stream_into(annotated, video_model, moving_square(3))
        annotated.on_event(StateChange(1, Transition("lost", 5.2, 2)))
        annotated.on_event(Description(1, 5.0, 5.2, "lost", "asked", 3, {"caption": {"en": GeneratedText("it", 1.0)}}))
        assert not (tmp_path / "out.mp4").exists()
    with open_video(tmp_path / "out.mp4") as video:
        assert [round(frame.time, 3) for frame in video] == [0.0, 0.1, 0.2]


def test_frames_of_one_time_are_written_behind_each_other(tmp_path):
    """As of a camera whose clock is coarse; nothing drifts, and the frames are all there."""
    times = [5.0, 5.1, 5.1, 5.1, 5.1 + 1e-6, 5.2, 5.2 + 0.5 / 60_000, 5.3]
    with AnnotatedStream(tmp_path / "out.mp4", 10, 1) as annotated:
        for index, time in enumerate(times):
            annotated.on_frame(Frame(GREY, time, index), FrameReport(index, time))
    with open_video(tmp_path / "out.mp4") as video:
        assert [frame.time for frame in video] == pytest.approx([time - 5 for time in times], abs=6 / 60_000)


@pytest.mark.parametrize(
    ("error", "left"), [(KeyboardInterrupt, True), (PamKitError, True), (ZeroDivisionError, False), (None, True)]
)
def test_a_stream_that_is_stopped_leaves_what_was_written(video_model, moving_square, tmp_path, error, left):
    with pytest.raises(error or SystemExit), AnnotatedStream(tmp_path / "out.mp4", None, 1) as annotated:
        stream_into(annotated, video_model, moving_square(2))
        if error is None:
            annotated.__exit__(None, None, None)
            raise SystemExit
        raise error("stop")
    assert [path.name for path in tmp_path.iterdir()] == (["out.mp4"] if left else [])


def test_a_stream_that_was_brought_back_begins_with_its_states(tmp_path, monkeypatch):
    drawn, draw = [], FrameAnnotator.draw
    monkeypatch.setattr(FrameAnnotator, "draw", lambda *given: (drawn.append(dict(given[3])), draw(*given))[1])
    with AnnotatedStream(tmp_path / "out.mp4", 10, 1, states={3: "lost"}) as annotated:
        annotated.on_frame(Frame(GREY, 7.0, 70), FrameReport(70, 7.0))
    assert drawn == [{3: "lost"}]


def test_a_stream_of_no_frame_leaves_no_file(tmp_path):
    with AnnotatedStream(tmp_path / "out.mp4", 10, 1):
        pass
    assert not list(tmp_path.iterdir())
