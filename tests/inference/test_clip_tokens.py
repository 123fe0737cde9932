"""Semantic tokens that are merged over the frames of a clip and close it: VideoRefer's way."""

import pytest
import torch

from pam_kit.components.perceivers.merged_mask_tokens import MergedMaskTokens
from pam_kit.contracts import ClipBatch, ProjectedTokens, Questions, RegionPrompt
from pam_kit.data.prepare import Geometry, collate, prepare
from pam_kit.errors import PamKitError, RecipeError
from pam_kit.inference.stream_records import StreamSettings
from pam_kit.inference.stream_state import load_stream, save_stream
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.tracker import VideoPredictor
from pam_kit.inference.video_result import FramePrompt
from pam_kit.registry import find

BOX, OTHER = RegionPrompt(box=(4, 10, 24, 30)), RegionPrompt(points=((60, 20),), labels=(1,))
# Visual tokens and both newlines of a frame: 2 x 2 cells of 4 x 4 in the first, one in later ones.
FIRST, LATER = 4 + 2, 1 + 2
SETTINGS = StreamSettings(languages=("en", "zh"), read_every=0.0, frame_rate=10, clip_frames=64, max_new_tokens=8)


@pytest.fixture(scope="module")
def model(make_video_model):
    torch.manual_seed(3)
    return make_video_model(perceiver=find("perceiver", "videorefer").build(embed_dim=256))


def streamed(model, frames) -> RegionStream:
    stream = RegionStream(model, SETTINGS)
    for prompt in (BOX, OTHER):
        stream.prompt(prompt)
    for frame in frames:
        stream.push(frame)
    return stream


def followed(model, frames) -> list[ProjectedTokens]:
    geometry = Geometry.of(model.backbone)
    batch = collate([prepare(frames[0], [BOX, OTHER], [], geometry)], geometry)
    pictures = [prepare(frame, [], [], geometry).image for frame in frames]
    with torch.inference_mode():
        return model.follow(iter(pictures), range(len(frames)), batch.prompts)[1]


def test_frames_that_are_alike_are_averaged_and_the_others_stay():
    perceiver = MergedMaskTokens(8, num_tokens=1, clip_tokens=3)
    a, b, c = torch.eye(8)[:3]
    over = torch.stack([2 * a, 4 * a, b, c, 3 * c, 5 * c])[None]
    assert torch.equal(perceiver.merged_over_frames(over), torch.stack([3 * a, b, 3 * c])[None])
    assert torch.equal(perceiver.merged_over_frames(over[:, :2]), over[:, :2])  # fewer frames than tokens


def test_the_tokens_of_a_clip_stand_at_its_end_and_grow_no_more(model, moving_square):
    tokens = followed(model, moving_square(7))
    for count in (1, 3, 4, 7):
        prefix = model.prefix(tokens[:count])
        closing = min(count, 4)
        assert prefix.shape[1] == model.prefix_length(count) == FIRST + (count - 1) * LATER + closing + 1
        assert model.tokens_per_region(count)[1] == closing
        semantic = torch.cat([frame.semantic for frame in tokens[:count]], dim=1)
        end = model.prefix.semantic_newline.expand(2, 1, -1)
        torch.testing.assert_close(
            prefix[:, -closing - 1 :], torch.cat([model.perceiver.merged_over_frames(semantic), end], dim=1)
        )
    assert model.prefix_length() == 4 + 1 + 1 + 1  # a picture has its own token


def test_stream_video_and_clip_at_once_say_the_same(model, moving_square):
    frames = moving_square(6)
    said = streamed(model, frames).describe()
    found = VideoPredictor(model).predict(
        frames, [FramePrompt(1, 0, BOX), FramePrompt(2, 0, OTHER)], ("caption",), SETTINGS.languages, max_new_tokens=8
    )
    texts = set()
    for one, other in zip(said, found.regions, strict=True):
        for language in SETTINGS.languages:
            mine, theirs = one.texts["caption"][language], other.texts["caption"][language]
            assert mine.text == theirs.text and mine.text and mine.score == pytest.approx(theirs.score, abs=1e-4)
            texts.add(mine.text)
    assert len(texts) > 1


def test_what_closes_a_clip_is_read_when_it_is_asked_about_and_not_kept(model, moving_square, monkeypatch):
    stream = streamed(model, moving_square(5))
    clip = stream.followed[0].clip
    length, read = clip.reading.length, []
    of_end = model.prefix.of_end
    monkeypatch.setattr(model.prefix, "of_end", lambda parts: (read.append(len(parts)), of_end(parts))[1])
    first = clip.ask(stream._asking(), {}, 0.0)
    assert clip.reading.length == length and len(clip.unmerged) == clip.count
    again = clip.ask(stream._asking(), {}, 0.0)
    assert [one.text for one in again] == [one.text for one in first] and read == [clip.count] * 2
    stream.describe()
    assert len(stream.followed[0].clip.unmerged) == 1  # of the carried frame


def test_a_stream_that_was_saved_within_a_clip_goes_on_the_same(model, moving_square, tmp_path):
    frames = moving_square(8)
    stream = streamed(model, frames[:5])
    save_stream(stream, tmp_path / "stream.safetensors")
    restored = load_stream(model, tmp_path / "stream.safetensors")
    for frame in frames[5:]:
        stream.push(frame)
        restored.push(frame)
    for one, other in zip(stream.describe(), restored.describe(), strict=True):
        assert one.to_json() | {"latency_ms": None} == other.to_json() | {"latency_ms": None}
    assert all(
        torch.equal(mine, theirs)
        for one, other in zip(stream.followed, restored.followed, strict=True)
        for mine, theirs in zip(one.clip.unmerged, other.clip.unmerged, strict=True)
    )


def test_training_reads_what_a_video_is_read_as_and_teaches_through_it(model, moving_square):
    frames, geometry = moving_square(6), Geometry.of(model.backbone)
    batch = collate([prepare(frames[0], [BOX, OTHER], [], geometry)], geometry)
    pictures = torch.stack([prepare(frame, [], [], geometry).image for frame in frames])
    none = Questions(torch.zeros(0, dtype=torch.long), [], [], [], [])
    clips = ClipBatch(
        frames=[pictures],
        read=[tuple(range(6))],
        clip_index=torch.zeros(2, dtype=torch.long),
        prompts=batch.prompts,
        questions=none,
        target_masks=batch.target_masks,
        has_target=batch.has_target,
    )
    _, prefixes = model.read_clips(clips)
    expected = model.prefix(followed(model, frames))
    torch.testing.assert_close(torch.stack(prefixes), expected, atol=1e-4, rtol=0)
    torch.stack(prefixes)[:, -5:-1].sum().backward()  # the closing tokens alone
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.perceiver.mlp.parameters())
    model.zero_grad(set_to_none=True)


def test_what_does_not_merge_says_so(video_model):
    with pytest.raises(PamKitError, match="nothing closes it"):
        video_model.prefix.of_end([torch.zeros(1, 3, 32)])
    with pytest.raises(PamKitError, match="SemanticPerceiver does not merge over frames"):
        video_model.perceiver.merged_over_frames(torch.zeros(1, 6, 32))
    with pytest.raises(RecipeError, match="clip_tokens is 2; it must be at least perceiver.num_tokens"):
        MergedMaskTokens(8, num_tokens=3, clip_tokens=2)
