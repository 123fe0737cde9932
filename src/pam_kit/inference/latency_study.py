"""How long a stream takes to its first word, and how long it would take if the clip were read only then.

``python -m pam_kit.inference.latency_study`` prints a table and draws it. A stream reads frames while they come in, so
that at the timestamp there are the newest frame and the question left; the plain way keeps the tokens of the frames and
runs all of them through the decoder at the timestamp, as a clip is described offline.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pam_kit.contracts import RegionPrompt
from pam_kit.errors import PamKitError
from pam_kit.inference.line_chart import Line, draw_chart
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.stream_clip import Asking
from pam_kit.inference.stream_records import StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.model import RegionVLM
from pam_kit.registry import find
from pam_kit.tasks import clip_question

FRAMES = (4, 8, 16, 32, 64)
_SIDE = 256
# A SAM 2 of a few narrow blocks at 256 pixels, and a decoder that is large enough for its work to be seen.
_OVERRIDES = {
    "image_encoder.trunk.embed_dim": 16,
    "image_encoder.trunk.stages": [1, 1, 3, 1],
    "image_encoder.trunk.global_att_blocks": [4],
    "image_encoder.neck.backbone_channel_list": [128, 64, 32, 16],
    "memory_attention.num_layers": 1,
    "memory_attention.layer.dim_feedforward": 64,
}


@dataclass(frozen=True)
class Point:
    """Clips of so many ``frames``: milliseconds from the timestamp to the first word, and positions that the decoder
    computes in that time, as a stream does it and the plain way."""

    frames: int
    streamed: float
    plain: float
    streamed_positions: int
    plain_positions: int


def study(model: RegionVLM, counts: Sequence[int] = FRAMES, repeats: int = 3) -> list[Point]:
    """Measure clips of each of these numbers of frames; times are medians of ``repeats`` after one to warm up."""
    model = RegionPredictor(model).model
    return [_point(model, count, repeats) for count in counts]


def table(points: Sequence[Point]) -> str:
    """The points as a table of Markdown."""
    lines = [
        "| frames of the clip | stream, ms | plain, ms | stream, positions | plain, positions |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {p.frames} | {p.streamed:.1f} | {p.plain:.1f} | {p.streamed_positions} | {p.plain_positions} |"
        for p in points
    ]
    return "\n".join(lines)


def draw(points: Sequence[Point], path: str | Path, what: str) -> None:
    """The points as a picture; ``what``: which model, and where."""
    lines = [
        Line("the clip is read at the timestamp", [point.plain for point in points]),
        Line("frames are read while they come in", [point.streamed for point in points]),
    ]
    title = f"Time from the timestamp to the first word ({what})"
    draw_chart(path, title, [point.frames for point in points], lines, "frames of the clip", "ms")


def small_model() -> RegionVLM:
    """A random model that follows regions: 64 visual tokens of a first frame, 16 of the others, 16 semantic ones."""
    torch.manual_seed(0)
    backbone = find("backbone", "sam2").build(size="tiny", image_size=_SIDE, overrides=_OVERRIDES)
    decoder = find("decoder", "causal_lm").build(
        hidden_size=256, num_layers=4, num_heads=4, vocab_size=600, max_length=8192, template="chatml"
    )
    decoder.learn_vocabulary([clip_question("caption", language) for language in ("en", "zh")])
    perceiver = find("perceiver", "semantic_perceiver").build(
        embed_dim=backbone.embed_dim, num_semantic_tokens=16, num_heads=4, mlp_dim=64
    )
    projector = find("projector", "pixel_shuffle_mlp").build(
        embed_dim=backbone.embed_dim, output_dim=decoder.embed_dim, ratio=2, later_ratio=4
    )
    return RegionVLM(backbone, perceiver, projector, decoder)


def _point(model: RegionVLM, count: int, repeats: int) -> Point:
    # Of a full clip the newest frame is read when the stream is asked.
    settings = StreamSettings(clip_frames=count, read_every=0.0, max_new_tokens=1)
    streamed, plain = [], []
    for repeat in range(repeats + 1):
        streamed.append(_streamed(model, settings, count, repeat))
        plain.append(_plain(model, settings, count))
    # The first ones warm up.
    return Point(
        count,
        median(milliseconds for milliseconds, _ in streamed[1:]),
        median(milliseconds for milliseconds, _ in plain[1:]),
        streamed[0][1],
        plain[0][1],
    )


def _streamed(model: RegionVLM, settings: StreamSettings, count: int, seed: int) -> tuple[float, int]:
    """Milliseconds to the first word of a stream of ``count`` frames, and the positions of that time."""
    stream, rng = RegionStream(model, settings), np.random.default_rng(seed)
    stream.prompt(RegionPrompt(box=(40, 40, 140, 140)))
    for _ in range(count):
        stream.push(rng.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8))
    reading: Any = stream.followed[0].clip.reading
    before = reading.positions_computed
    stream.followed[0].clip.seen = True  # a random model may see nothing
    said = stream.describe()[0]
    return said.latency_ms["first_token"], reading.positions_computed - before


@torch.inference_mode()
def _plain(model: RegionVLM, settings: StreamSettings, count: int) -> tuple[float, int]:
    """The same where the whole clip is read at the timestamp; what its tokens are does not matter."""
    device = next(model.parameters()).device
    asking = Asking(settings.tasks, settings.languages, settings.max_new_tokens)
    clip = torch.randn(1, model.prefix_length(count), model.decoder.embed_dim, device=device)
    said: list[float] = []

    def note(_ids: Tensor) -> None:
        said.append(_now(device))

    begin = _now(device)
    reading: Any = model.decoder.start_reading(1)
    reading.read(clip)
    reading.answer(asking.questions({}), settings.max_new_tokens, note)
    return 1000 * (said[0] - begin), reading.positions_computed


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured; 2: the model cannot be loaded or does not follow regions."""
    parser = argparse.ArgumentParser(
        prog="python -m pam_kit.inference.latency_study",
        description="Time from the timestamp to the first word of a stream over the frames of its clip.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--checkpoint", metavar="RUN", help="a run folder; without it a small random model")
    parser.add_argument("--frames", default=",".join(map(str, FRAMES)), help="of the clips, comma-separated")
    parser.add_argument("--repeats", type=int, default=3, help="clips of each length, besides one to warm up")
    parser.add_argument("--out", default="stream_latency.png", help="the picture")
    options = parser.parse_args(arguments)
    try:
        model = RegionVLM.from_pretrained(options.checkpoint) if options.checkpoint else small_model()
        points = study(model, [int(count) for count in options.frames.split(",")], options.repeats)
    except PamKitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(points))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    draw(points, options.out, f"{options.checkpoint or 'small random model'}, {device}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
