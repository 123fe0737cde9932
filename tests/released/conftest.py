"""A tiny checkpoint in the layout of the released PAM, made from what that layout consists of: the tensors of
transformers' Qwen2 and of sam2's SAM 2 as they are called there, and the resampler's, listed here.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

# A SAM 2 of few channels for pictures of 64 pixels; PAM's config.json has no field for such.
SAM2 = {
    "image_encoder.trunk.embed_dim": 16,
    "image_encoder.trunk.stages": [1, 1, 3, 1],
    "image_encoder.trunk.global_att_blocks": [4],
    "image_encoder.neck.backbone_channel_list": [128, 64, 32, 16],
    "memory_attention.num_layers": 1,
    "memory_attention.layer.dim_feedforward": 64,
}
SMALL_SAM2 = ["backbone.size=tiny", "backbone.image_size=64", f"backbone.overrides={json.dumps(SAM2)}"]
TOWER = "model.vision_tower.sam2_model_predictor."
WIDTH, ROWS = 32, 320
CONFIG = {
    "architectures": ["LlavaQwenForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "max_position_embeddings": 16384,
    "max_window_layers": 1,
    "mm_hidden_size": 256,
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_tower": "meta/sam2.1_hiera_large",
    "model_type": "llava_qwen",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 20000.0,
    "sliding_window": 16384,
    "tie_word_embeddings": True,
    "tokenizer_model_max_length": 9000,
    "tokenizer_padding_side": "right",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.2",
    "use_cache": True,
    "use_mm_proj": True,
    "use_sliding_window": False,
    "vocab_size": ROWS,
}


def resampler_shapes() -> dict[str, tuple[int, ...]]:
    """The released perceiver: 256 wide, 16 tokens, two blocks whose MLPs are 2048 wide."""
    shapes = {"sem_tokens.weight": (16, 256), "pe_layer.positional_encoding_gaussian_matrix": (2, 128)}
    shapes |= linear("proj", 4096, 1024) | norm("norm_final_attn") | attention("final_attn_token_to_image", 128)
    for i in range(2):
        block = f"layers.{i}"
        shapes |= attention(f"{block}.self_attn", 256)
        shapes |= attention(f"{block}.cross_attn_token_to_image", 128)
        shapes |= attention(f"{block}.cross_attn_image_to_token", 128)
        shapes |= linear(f"{block}.mlp.layers.0", 256, 2048) | linear(f"{block}.mlp.layers.1", 2048, 256)
        for j in range(1, 5):
            shapes |= norm(f"{block}.norm{j}")
    return shapes


def linear(name: str, inner: int, outer: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outer, inner), f"{name}.bias": (outer,)}


def norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (256,), f"{name}.bias": (256,)}


def attention(name: str, width: int) -> dict[str, tuple[int, ...]]:
    inwards = [linear(f"{name}.{piece}_proj", 256, width) for piece in "qkv"]
    return inwards[0] | inwards[1] | inwards[2] | linear(f"{name}.out_proj", width, 256)


def released_shapes() -> dict[str, tuple[int, ...]]:
    """Released name -> shape of the whole tiny checkpoint."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from pam_kit.components.backbones.sam2_package import build_sam2

    same = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads")
    with torch.device("meta"):
        language_model = Qwen2ForCausalLM(Qwen2Config(vocab_size=ROWS, **{key: CONFIG[key] for key in same}))
        tower = build_sam2("tiny", 64, SAM2)
    shapes = {name: value.shape for name, value in language_model.state_dict().items() if name != "lm_head.weight"}
    shapes |= {f"{TOWER}{name}": value.shape for name, value in tower.state_dict().items()}
    shapes |= {f"model.vision_resampler.{name}": shape for name, shape in resampler_shapes().items()}
    shapes |= linear("model.mm_projector_img.0", 1024, WIDTH) | linear("model.mm_projector_img.2", WIDTH, WIDTH)
    shapes |= linear("model.mm_projector_semT.0", 256, WIDTH) | linear("model.mm_projector_semT.2", WIDTH, WIDTH)
    return shapes | {f"model.{piece}_newline": (WIDTH,) for piece in ("image", "semT", "frame")}


@pytest.fixture(scope="session")
def released_tensors():
    """Released name -> a tensor of noise in bfloat16, as published weights are stored."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return {
        name: (torch.randn(shape, generator=generator) * 0.05).to(torch.bfloat16)
        for name, shape in released_shapes().items()
    }


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    """A tokenizer of at most 300 entries, which has the chat tokens."""
    from pam_kit.components.decoders.vocabulary import learn_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    learn_tokenizer(["What is this?", "A red cup that stands left of a ball."] * 3, 300).save_pretrained(folder)
    return folder


@pytest.fixture
def released_folder(released_tensors, tokenizer_folder, tmp_path) -> Callable[..., Path]:
    """``released_folder(changed={name: tensor or None}, config={...}, tower=True, tokenizer=True)`` -> the folder."""
    from safetensors.torch import save_file

    def write(changed=None, config=None, tower: bool = True, tokenizer: bool = True) -> Path:
        folder = tmp_path / "PAM-tiny"
        folder.mkdir()
        tensors = released_tensors | (changed or {})
        kept = {name: t for name, t in tensors.items() if t is not None and (tower or not name.startswith(TOWER))}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})), encoding="utf-8")
        if tokenizer:
            shutil.copytree(tokenizer_folder, folder, dirs_exist_ok=True)
        return folder

    return write


@pytest.fixture(scope="session")
def imported_run(released_tensors, tokenizer_folder, tmp_path_factory) -> tuple[Path, Path]:
    """The tiny checkpoint and the run made of it, all rows of its vocabulary kept."""
    from safetensors.torch import save_file

    from pam_kit.released.importing import import_pam

    folder = tmp_path_factory.mktemp("released")
    save_file(released_tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    run = folder.with_name("run_of_released")
    import_pam(folder, run, tokenizer=tokenizer_folder, overrides=SMALL_SAM2, whole_vocabulary=True)
    return folder, run


@pytest.fixture
def small_sam2() -> list[str]:
    """The changes to the recipe that the tiny checkpoint needs."""
    return list(SMALL_SAM2)
