"""A stream against the offline path on the same frames, and what may be pointed at when."""

import numpy as np
import pytest
import torch

from pam_kit.contracts import Questions, RegionPrompt
from pam_kit.data.prepare import Geometry, collate, prepare
from pam_kit.errors import PamKitError, PromptError
from pam_kit.inference.stream_records import StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.tracker import VideoPredictor
from pam_kit.inference.video_result import FramePrompt
from pam_kit.tasks import clip_question

BOX = RegionPrompt(box=(4, 10, 24, 30))
OTHER = RegionPrompt(points=((60, 20),), labels=(1,))
LANGUAGES = ("en", "zh")
# A grid of 4 x 4 cells: r = 2 leaves 4 of a first frame, r = 4 one of a later frame; 3 semantic tokens.
FIRST, LATER, SEMANTIC = 4, 1, 3


def settings(**changes) -> StreamSettings:
    values = {"languages": LANGUAGES, "read_every": 0.0, "frame_rate": 10, "clip_frames": 64, "max_new_tokens": 8}
    return StreamSettings(**values | changes)


def pushed(model, frames, prompts=(BOX,), **changes) -> tuple[RegionStream, list]:
    """A stream in whose first frame all the prompts point, and the reports of all frames."""
    stream = RegionStream(model, settings(**changes))
    for prompt in prompts:
        stream.prompt(prompt)
    return stream, [stream.push(frame) for frame in frames]


def words(said) -> dict[str, str]:
    return {language: answer.text for language, answer in said.texts["caption"].items()}


@pytest.fixture
def read_embeddings(video_model, monkeypatch):
    """All embeddings (1, L, D) that the decoder is given, in order."""
    given, start = [], video_model.decoder.start_reading

    def started(count):
        reading = start(count)
        read = reading.read
        reading.read = lambda embeddings: (given.append(embeddings.clone()), read(embeddings))[1]
        return reading

    monkeypatch.setattr(video_model.decoder, "start_reading", started)
    return given


@torch.inference_mode()
def offline(model, frames, prompts=(BOX,)):
    """The clip at once: logits of all frames, embeddings (R, L, D), and the answers in all languages."""
    geometry = Geometry.of(model.backbone)
    batch = collate([prepare(frames[0], list(prompts), [], geometry)], geometry)
    pictures = [prepare(frame, [], [], geometry).image for frame in frames]
    logits = [regions.mask_logits for regions in model.backbone.track(iter(pictures), batch.prompts)]
    _, tokens = model.follow(iter(pictures), range(len(frames)), batch.prompts)
    prefix = model.prefix(tokens)
    asked = [(region, language) for region in range(len(prompts)) for language in LANGUAGES]
    words = [clip_question("caption", language) for _, language in asked]
    questions = Questions(
        torch.tensor([region for region, _ in asked]),
        words,
        [""] * len(asked),
        ["caption"] * len(asked),
        [language for _, language in asked],
    )
    return logits, tokens, prefix, model.decoder.generate(prefix, questions, 8)


def test_frames_pushed_one_by_one_are_the_clip_at_once(video_model, moving_square, read_embeddings):
    frames, prompts = moving_square(7), (BOX, OTHER)
    stream, reports = pushed(video_model, frames, prompts)
    read = [torch.cat(read_embeddings[row::2], dim=1) for row in range(2)]
    said = stream.describe()
    logits, tokens, prefix, answers = offline(video_model, frames, prompts)
    for report, expected in zip(reports, logits, strict=True):
        seen = torch.stack([report.regions[number].mask_logits for number in (1, 2)])
        torch.testing.assert_close(seen, expected[:, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cat(read), prefix, atol=1e-4, rtol=0)
    count = len(frames)
    assert sum(frame.visual.shape[1] for frame in tokens) == FIRST + (count - 1) * LATER
    assert sum(frame.semantic.shape[1] for frame in tokens) == count * SEMANTIC
    assert read[0].shape[1] == FIRST + (count - 1) * LATER + count * (SEMANTIC + 3)
    assert video_model.tokens_per_region(count) == (FIRST + (count - 1) * LATER, count * SEMANTIC)
    expected = iter(answers)
    for one in said:
        for language in LANGUAGES:
            found, answer = one.texts["caption"][language], next(expected)
            assert found.text == answer.text and found.text
            assert found.score == pytest.approx(answer.score, abs=1e-4)
    assert said[0].texts != said[1].texts and said[0].frames_read == count


def test_the_video_predictor_says_and_shows_the_same(video_model, moving_square):
    frames = moving_square(6)
    stream, reports = pushed(video_model, frames, (BOX, OTHER))
    prompts = [FramePrompt(1, 0, BOX), FramePrompt(2, 0, OTHER)]
    found = VideoPredictor(video_model).predict(frames, prompts, ("caption",), LANGUAGES, max_new_tokens=8)
    for region, said in zip(found.regions, stream.describe(), strict=True):
        for frame, report in zip(region.frames, reports, strict=True):
            np.testing.assert_array_equal(frame.mask((48, 80)), report.regions[region.region].mask())
            assert frame.object_score == pytest.approx(report.regions[region.region].object_score, abs=1e-4)
        assert region.read_frames == list(range(6))
        for language in LANGUAGES:
            one, other = region.texts["caption"][language], said.texts["caption"][language]
            assert one.text == other.text and one.score == pytest.approx(other.score, abs=1e-4)


def test_a_frame_becomes_its_tokens_when_it_is_there(video_model, moving_square, read_embeddings):
    """Behind a carried frame all frames are later ones; the newest one is read when the stream is asked."""
    stream, _ = pushed(video_model, moving_square(5), read_every=0.2)
    lengths = [one.shape[1] for one in read_embeddings]
    assert lengths == [FIRST + SEMANTIC + 3, *[LATER + SEMANTIC + 3] * 2]  # at 0, 0.2 and 0.4 s
    stream.push(moving_square(6)[5])
    said = stream.describe()[0]
    newest, opening = read_embeddings[-2:]
    assert said.frames_read == 4 and (newest.shape[1], opening.shape[1]) == (lengths[1], lengths[0])
    assert not stream.unspoken and (said.start, said.end) == (0.0, pytest.approx(0.5))


def test_what_is_left_to_do_at_the_timestamp_does_not_grow(video_model, moving_square):
    """Between the question and the first word there are the newest frame and the question, whatever came before."""
    computed, question = {}, clip_question("caption", "en")
    for count in (4, 16, 64):
        stream, _ = pushed(video_model, moving_square(count), languages=("en",), clip_frames=count, max_new_tokens=1)
        reading = stream.followed[0].clip.reading
        before = reading.positions_computed
        assert stream.describe()[0].frames_read == count
        computed[count] = reading.positions_computed - before
    ahead = LATER + SEMANTIC + 3
    assert len(set(computed.values())) == 1 and ahead < computed[64] <= ahead + len(question), computed


def test_the_first_word_of_a_later_region_has_waited_for_the_regions_before(video_model, moving_square):
    stream, _ = pushed(video_model, moving_square(3), (BOX, OTHER))
    first, second = (one.latency_ms for one in stream.describe())
    assert second["first_token"] >= first["first_token"] + first["decode"] + first["carry"]


@pytest.mark.parametrize(("most", "carry"), [(1, True), (2, True), (2, False), (3, True), (5, False)])
def test_a_clip_never_has_more_frames_than_it_may(video_model, moving_square, most, carry):
    stream = RegionStream(video_model, settings(clip_frames=most, carry=carry, read_every=0.1, max_new_tokens=1))
    stream.prompt(BOX)
    read = []
    for index, frame in enumerate(moving_square(9)):
        if index == 4:
            stream.prompt(BOX, 1)
        stream.push(frame)
        if stream.full_clips() == [1]:
            read.append(stream.describe()[0].frames_read)
    assert read and set(read) == {most}
    # A carried frame and the newest one are both among them, so that clips overlap in it.
    assert len(read) == {(1, True): 8, (2, True): 8, (2, False): 4, (3, True): 4, (5, False): 1}[most, carry]


GAP = (0.0, 0.1, 5.0, 5.03, 5.07, 5.1, 5.5, 5.53, 6.0, 6.04)


def test_behind_a_gap_frames_are_read_at_the_same_pace(video_model, moving_square):
    """A variable frame rate, a stall, dropped frames: what was left out is not made up for."""
    stream = RegionStream(video_model, settings(read_every=0.5, clip_frames=6))
    stream.prompt(BOX)
    reports = [stream.push(frame, time) for frame, time in zip(moving_square(len(GAP)), GAP, strict=True)]
    assert [report.time for report in reports if report.read] == [0.0, 5.0, 5.5, 6.0] and not stream.full_clips()


def test_a_frame_that_is_read_out_of_turn_takes_the_next_turn(video_model, moving_square):
    stream, read = RegionStream(video_model, settings(read_every=0.5)), []
    stream.prompt(BOX)
    for index, frame in enumerate(moving_square(17)):
        if index == 2:
            stream.prompt(BOX, 1)
        if stream.push(frame).read:
            read.append(index)
    assert read == [0, 2, 10, 15]


def test_nothing_is_computed_before_anything_is_pointed_at(video_model, moving_square, monkeypatch):
    monkeypatch.setattr(video_model.backbone, "encode", lambda images: pytest.fail("encoded"))
    stream, reports = pushed(video_model, moving_square(3), ())
    assert [report.regions for report in reports] == [{}, {}, {}] and not stream.describe()
    assert stream.summary()["frames"] == 3 and not stream.summary()["latency_ms"]


def test_a_region_may_join_at_any_frame_and_leave_again(video_model, moving_square):
    """What one region shows does not depend on another one that comes and goes."""
    frames = moving_square(8)
    alone, expected = pushed(video_model, frames)
    stream = RegionStream(video_model, settings())
    stream.prompt(BOX)
    for index, frame in enumerate(frames):
        if index == 2:
            assert stream.prompt(OTHER) == 2
        if index == 6:
            stream.remove(2)
        report = stream.push(frame)
        assert sorted(report.regions) == ([1, 2] if 2 <= index < 6 else [1])
        found, wanted = report.regions[1], expected[index].regions[1]
        torch.testing.assert_close(found.mask_logits, wanted.mask_logits, atol=1e-4, rtol=0)
    assert stream.regions == [1] and stream.prompt(OTHER) == 3  # numbers are not given twice
    assert words(stream.describe()[0]) == words(alone.describe()[0])


def test_a_region_that_joins_later_is_that_of_a_stream_which_begins_there(video_model, moving_square):
    frames = moving_square(6)
    stream, _ = pushed(video_model, frames[:3])
    stream.prompt(OTHER, 7)
    late = [stream.push(frame) for frame in frames[3:]]
    fresh, expected = pushed(video_model, frames[3:], (OTHER,))
    for found, wanted in zip(late, expected, strict=True):
        one, other = found.regions[7].mask_logits, wanted.regions[1].mask_logits
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    said = {one.region: one for one in stream.describe()}
    assert said[7].texts["caption"]["en"].text == fresh.describe()[0].texts["caption"]["en"].text
    assert (said[7].start, said[7].frames_read) == (pytest.approx(0.3), 3)


def test_a_region_may_be_pointed_at_anew(video_model, moving_square):
    frames = moving_square(5)
    stream, reports = pushed(video_model, frames[:3])
    assert stream.prompt(OTHER, 1) == 1
    report = stream.push(frames[3])
    fresh, expected = pushed(video_model, frames[3:4], (OTHER,))
    # SAM 2 decodes a frame in which it is pointed at without a look at its memory.
    one, other = report.regions[1].mask_logits, expected[0].regions[1].mask_logits
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    assert report.read == [1] and list(report.pointed) == [1] and stream.regions == [1]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (RegionPrompt(box=(60, 10, 90, 30)), "region 2: box (60, 10, 90, 30) does not fit a picture of 80x48 pixels"),
        (RegionPrompt(points=((5, 50),), labels=(1,)), "region 2: point (5, 50) lies outside a picture of 80x48"),
        (RegionPrompt(mask=np.ones((20, 20), bool)), "region 2: the mask is 20x20 pixels, the picture 80x48"),
        (RegionPrompt(), "region 2: the prompt is empty"),
    ],
)
def test_a_refused_prompt_changes_nothing(video_model, moving_square, prompt, message):
    frames = moving_square(6)
    expected = [one.regions[1].mask_logits for one in pushed(video_model, frames)[1]]
    stream, _ = pushed(video_model, frames[:3])
    stream.prompt(prompt)
    with pytest.raises(PromptError) as refused:
        stream.push(frames[3])
    assert message in str(refused.value)
    for frame, logits in zip(frames[3:], expected[3:], strict=True):
        report = stream.push(frame)
        assert list(report.regions) == [1] and torch.equal(report.regions[1].mask_logits, logits)
    assert report.index == 5


def test_a_refused_prompt_takes_no_other_with_it(video_model, moving_square):
    stream, frame = RegionStream(video_model, settings()), moving_square(1)[0]
    stream.prompt(BOX, 1)
    stream.prompt(RegionPrompt(box=(60, 10, 90, 30)), 2)
    stream.prompt(OTHER, 3)
    with pytest.raises(PromptError, match="region 2: box .* does not fit"):
        stream.push(frame)
    assert list(stream.push(frame).regions) == [1, 3]


def break_in(stream, name: str, monkeypatch, work) -> None:
    """Ctrl-C in the middle of ``work``, when the follower's method ``name`` is called."""

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patching, pytest.raises(KeyboardInterrupt):
        patching.setattr(stream.follower, name, stopped)
        work()


@pytest.mark.parametrize("broken_in", ["push", "describe"])
def test_a_stream_that_was_stopped_in_the_middle_says_so(video_model, moving_square, monkeypatch, broken_in):
    """Else the frame would be tracked twice."""
    frames = moving_square(4)
    stream, expected = pushed(video_model, frames[:3], read_every=0.2 if broken_in == "push" else 9.0)
    assert not stream.broken
    work = {"push": lambda: stream.push(frames[3], 0.4), "describe": stream.describe}[broken_in]
    break_in(stream, "perceived", monkeypatch, work)
    assert stream.broken
    for call in (lambda: stream.push(frames[3]), stream.describe, lambda: stream.remove(1)):
        with pytest.raises(PamKitError, match="in the middle of its work, after 3 whole frames; it cannot go on: load"):
            call()
    stream.reset()
    stream.prompt(BOX)
    again = [stream.push(frame) for frame in frames[:3]]
    assert torch.equal(again[2].regions[1].mask_logits, expected[2].regions[1].mask_logits)


@pytest.mark.parametrize(
    ("frame", "time", "message"),
    [
        (np.zeros((48, 64, 3), np.uint8), None, "frame 2 has 64x48 pixels, the frames before it 80x48: resize it, or"),
        (np.zeros((48, 80, 3), np.float32), None, "uint8 RGB array, not (48, 80, 3) float32"),
        (np.zeros((48, 80), np.uint8), None, "uint8 RGB array, not (48, 80) uint8"),
        (np.zeros((0, 80, 3), np.uint8), None, "uint8 RGB array, not (0, 80, 3) uint8"),
        ("frame.png", None, "uint8 RGB array, not str"),
        (np.zeros((48, 80, 3), np.uint8), 0.05, "frame 2, behind one of 0.1 s, is of 0.05 s"),
        (np.zeros((48, 80, 3), np.uint8), float("nan"), "is of nan s; times are seconds, finite"),
    ],
)
def test_a_refused_frame_changes_nothing(video_model, moving_square, frame, time, message):
    frames = moving_square(4)
    expected = pushed(video_model, frames)[1][-1]
    stream, _ = pushed(video_model, frames[:2])
    with pytest.raises(PamKitError) as refused:
        stream.push(frame, time)
    assert message in str(refused.value)
    stream.push(frames[2])
    report = stream.push(frames[3])
    assert torch.equal(report.regions[1].mask_logits, expected.regions[1].mask_logits)
    assert (report.index, report.time) == (3, pytest.approx(0.3))


def test_reset_forgets_all_but_the_settings(video_model, moving_square):
    frames = moving_square(4)
    _, expected = pushed(video_model, frames)
    stream, _ = pushed(video_model, moving_square(3, (64, 40)), (RegionPrompt(box=(1, 1, 20, 20)),))
    stream.prompt(OTHER)
    stream.reset()
    assert not stream.regions and not stream.unspoken and stream.prompt(BOX) == 1
    for frame, wanted in zip(frames, expected, strict=True):
        assert torch.equal(stream.push(frame).regions[1].mask_logits, wanted.regions[1].mask_logits)


def test_regions_are_named_where_there_is_none_of_that_number(video_model, moving_square):
    stream, _ = pushed(video_model, moving_square(2), (BOX, OTHER))
    for call in (lambda: stream.remove(5), lambda: stream.describe([5])):
        with pytest.raises(PromptError, match="there is no region 5 in this stream; followed are 1, 2"):
            call()
    with pytest.raises(PromptError, match="region 0: regions are numbered from 1 up"):
        stream.prompt(BOX, 0)
    stream.prompt(BOX, 9)
    stream.remove(9)  # was not followed yet
    assert list(stream.push(moving_square(3)[2]).regions) == [1, 2]
    assert [one.region for one in stream.describe([2])] == [2]
    assert stream.unspoken  # of region 1
    for number in (1, 2):
        stream.remove(number)
    assert not stream.push(moving_square(4)[3]).regions and not stream.describe()


def test_a_backbone_that_cannot_follow_is_refused(video_model, monkeypatch):
    monkeypatch.setattr(type(video_model.backbone), "tracks", False)
    with pytest.raises(PamKitError, match="Sam2\\) does not follow regions through frames"):
        RegionStream(video_model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "tasks are []; give at least one of"),
        ({"languages": ("fr",)}, "languages are ['fr']"),
        ({"clip_frames": 0}, "clip_frames is 0; it must be at least 1"),
        ({"read_every": float("nan")}, "read_every is nan; it must be a number of seconds, 0 or more"),
        ({"frame_rate": 0.0}, "frame_rate is 0.0; it must be above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(PamKitError) as refused:
        settings(**changes)
    assert message in str(refused.value)


def test_times_may_be_of_any_clock(video_model, moving_square):
    stream, (one, other) = RegionStream(video_model, settings(read_every=0.5)), moving_square(2)
    stream.prompt(BOX)
    assert stream.push(one, 1.7e9).read == [1]
    assert stream.push(other, 1.7e9 + 0.25).read == []
    assert stream.summary()["seconds"] == 0.25 and stream.describe()[0].start == 1.7e9


def test_times_are_accounted_by_frame_and_by_caption(video_model, moving_square):
    stream, reports = pushed(video_model, moving_square(4), read_every=0.2)
    frame_stages = {"encode", "track", "perceive", "project", "prefill"}
    assert [set(report.latency_ms) for report in reports] == [frame_stages, {"encode", "track"}] * 2
    said = stream.describe()[0]
    assert set(said.latency_ms) == {"first_token", "decode", "carry"}
    # What the carried frame took is not the next frame's.
    assert set(stream.push(moving_square(5)[4]).latency_ms) == {"encode", "track"}
    summary = stream.summary()
    assert summary["latency_ms"]["encode"]["count"] == 5 and summary["latency_ms"]["first_token"]["count"] == 1
    longest = sum(row["mean"] * row["count"] for row in summary["latency_ms"].values()) / 1000
    assert 0 < summary["busy_seconds"] < longest + 5 and summary["seconds"] == pytest.approx(0.4)
    assert summary["real_time_factor"] == pytest.approx(summary["busy_seconds"] / 0.4, abs=1e-2)
