"""A model that follows regions, small enough to run through whole videos in a test."""

from pathlib import Path

import numpy as np
import pytest

# A SAM 2 of a few blocks, at 64 pixels: a grid of 4 x 4 cells.
SMALL_SAM2 = {
    "image_encoder.trunk.embed_dim": 16,
    "image_encoder.trunk.stages": [1, 1, 3, 1],
    "image_encoder.trunk.global_att_blocks": [4],
    "image_encoder.neck.backbone_channel_list": [128, 64, 32, 16],
    "memory_attention.num_layers": 1,
    "memory_attention.layer.dim_feedforward": 64,
}
TEXTS = (
    "Provide a caption for this subject in this video.\nPrevious caption: None",
    "对该视频中的目标对象提供一个描述。\n历史描述：无",
    "a red square moves to the right and out of the picture",
    "红色的方块向右移动",
)


def build_video_model(seed: int = 0, perceiver=None):
    """A RegionVLM of random weights whose SAM 2 of 64 pixels tracks; masks and texts differ from frame to frame.

    ``perceiver``: of 256 channels; one of semantic tokens where none is given.
    Other processes build it too: they load this file by its path, which ``this_file`` gives.
    """
    import torch

    from pam_kit.components.backbones.sam2 import Sam2
    from pam_kit.components.decoders.causal_lm import CausalLM
    from pam_kit.components.perceivers.semantic_perceiver import SemanticPerceiver
    from pam_kit.components.projectors.pixel_shuffle_mlp import PixelShuffleMlp
    from pam_kit.model import RegionVLM

    torch.manual_seed(seed)
    backbone = Sam2("tiny", 64, overrides=SMALL_SAM2)
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5 if len(parameter) > 1 else 1)
    decoder = CausalLM(hidden_size=32, num_layers=2, num_heads=4, vocab_size=320, max_length=2048, template="chatml")
    decoder.learn_vocabulary(TEXTS)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.6 if "embed" in name else 1.8 * parameter.shape[1] ** -0.5)
    perceiver = perceiver or SemanticPerceiver(256, num_semantic_tokens=3, num_heads=4, mlp_dim=32)
    projector = PixelShuffleMlp(256, 32, ratio=2, later_ratio=4)
    return RegionVLM(backbone, perceiver, projector, decoder).eval()


@pytest.fixture(scope="session")
def make_video_model():
    return build_video_model


@pytest.fixture(scope="session")
def video_model():
    return build_video_model()


@pytest.fixture
def this_file() -> Path:
    return Path(__file__)


@pytest.fixture
def hidden(video_model, monkeypatch):
    """``hidden({4, 5})``: in these frames, counted from now on, SAM 2 says that the objects are out of sight.

    With ``score_only`` it draws their masks all the same, as it does where they are pointed at.
    """

    def hide(frames: set[int], score_only: bool = False) -> None:
        observe, count = video_model.backbone.observe, iter(range(10**6))

        def observed(*arguments, **keywords):
            regions = observe(*arguments, **keywords)
            if next(count) in frames:
                regions.object_score = regions.object_score * 0 - 9
                if not score_only:
                    regions.mask_logits = regions.mask_logits * 0 - 1024
            return regions

        monkeypatch.setattr(video_model.backbone, "observe", observed)

    return hide


def square_frames(count: int, size: tuple[int, int] = (48, 80)) -> list[np.ndarray]:
    """Frames (H, W, 3) uint8: a red square that wanders over noise."""
    rng = np.random.default_rng(1)
    drawn = [rng.integers(0, 90, (*size, 3), dtype=np.uint8) for _ in range(count)]
    for index, frame in enumerate(drawn):
        left = 4 + 3 * index % (size[1] - 24)
        frame[10:30, left : left + 20] = (220, 30, 30)
    return drawn


@pytest.fixture
def moving_square():
    """``moving_square(count, size=(48, 80))``: see ``square_frames``."""
    return square_frames
