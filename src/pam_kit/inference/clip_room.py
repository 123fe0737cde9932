"""Whether a clip, the questions about it and their answers fit the decoder, known before the first frame."""

from collections.abc import Mapping

from pam_kit.errors import PamKitError
from pam_kit.inference.stream_clip import Asking
from pam_kit.model import RegionVLM


def check_clip_room(
    model: RegionVLM, frames: int, asking: Asking, history: Mapping[str, str], recalled: int = 0, in_parts: bool = False
) -> None:
    """Refuse clips that the decoder could not read to their end.

    Args:
        frames: how many frames of a clip are read.
        asking: what is asked about it.
        history: what was said before it, by language.
        recalled: tokens of an earlier caption that a question about a caption may quote later on.
        in_parts: the clip is read part by part.

    Raises:
        PamKitError: the clip, the longest question and the longest answer are together longer than the decoder's room.
    """
    room, asked = model.decoder.room(in_parts), asking.questions(history)
    if room == float("inf") or not len(asked):
        return
    lengths = [model.decoder.question_length(question) for question in asked.questions]
    question = max(
        length + (recalled if task == "caption" else 0) for length, task in zip(lengths, asked.tasks, strict=True)
    )
    clip, words = model.prefix_length(frames), question + asking.max_new_tokens
    if clip + words > room:
        raise PamKitError(
            f"clips of {frames} frames (--frames, clip_frames) take {clip} positions, the longest question {question} "
            f"and the answer {asking.max_new_tokens}, but the decoder has room for {room:g} in all: "
            f"{_remedy(model, frames, room - words)}"
        )


def _remedy(model: RegionVLM, frames: int, left: float) -> str:
    """What fits the positions that are left beside the words."""
    fitting = [count for count in range(1, frames) if model.prefix_length(count) <= left]
    if fitting:
        return f"read at most {fitting[-1]} frames, or ask for shorter answers (--max-new-tokens, max_new_tokens)"
    return "ask for shorter answers (--max-new-tokens, max_new_tokens), or use a decoder that reads longer sequences"
