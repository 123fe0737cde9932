"""Builders that tests share: a tiny recipe, model and batch, and the golden data. Imports are heavy, so they come late.

The recipe ``tiny`` takes a fraction of a second on one core: pictures of 64 pixels, a 4x4 grid, width 32.
"""

import os
from importlib.util import module_from_spec, spec_from_file_location
from itertools import cycle, islice
from pathlib import Path

import pytest

# One thread a process: the tests are small, and a process that has a pool of threads is not safe to fork.
os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"

TINY = """
name: tiny
model:
  backbone:
    {name: timm_sam, model_name: test_byobnet, image_size: 64, embed_dim: 32, decoder_depth: 1, decoder_heads: 2,
     decoder_mlp_dim: 32}
  perceiver: {name: semantic_perceiver, num_semantic_tokens: 3, num_heads: 4, mlp_dim: 32}
  projector: {name: pixel_shuffle_mlp, ratio: 2}
  decoder:
    {name: causal_lm, architecture: qwen2, hidden_size: 32, num_layers: 2, num_heads: 4, vocab_size: 300,
     max_length: 256, template: plain}
data:
  train: {name: micro, num_samples: 8, seed: 0}
train: {max_steps: 2}
"""

# The backbone of a model that tracks: a SAM 2 of a few blocks.
SMALL_SAM2 = """\
  backbone:
    name: sam2
    size: tiny
    image_size: 64
    overrides:
      image_encoder.trunk.embed_dim: 16
      image_encoder.trunk.stages: [1, 1, 3, 1]
      image_encoder.trunk.global_att_blocks: [4]
      image_encoder.neck.backbone_channel_list: [128, 64, 32, 16]
      memory_attention.num_layers: 1
      memory_attention.layer.dim_feedforward: 64
"""

# Question, answer, task, language.
ASKED = (
    ("What is this?", "cup", "recognize", "en"),
    ("Describe the thing in this region in a few words.", "A red cup that stands left of a ball.", "caption", "en"),
    ("这是什么？", "杯子", "recognize", "zh"),
    ("Name it.", "a small green ball", "recognize", "en"),
    ("对该目标对象提供一个概括的描述", "球的左边有一个红色的杯子。", "caption", "zh"),
)
TEXTS = tuple(text for question, answer, _, _ in ASKED for text in (question, answer))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that fork come first: later on this process has threads, whose locks a child would inherit."""
    items.sort(key=lambda item: "in_processes" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def tiny_text() -> str:
    """The YAML of the tiny recipe, where a test changes it as text."""
    return TINY


@pytest.fixture(scope="session")
def small_sam2() -> str:
    """A recipe's lines for a small SAM 2, to stand below ``model:``."""
    return SMALL_SAM2


@pytest.fixture
def tiny_recipe(tmp_path):
    """``tiny_recipe("decoder.num_layers=1", ...)`` -> Recipe: the tiny one with overrides on top."""
    from pam_kit.recipe import load_recipe

    file = tmp_path / "tiny.yaml"
    file.write_text(TINY, encoding="utf-8")
    return lambda *overrides: load_recipe(file, overrides)


@pytest.fixture
def tiny_model(tiny_recipe):
    """``tiny_model(*overrides, seed=0)`` -> RegionVLM in eval mode, of random weights and with a learned vocabulary."""
    import torch

    from pam_kit.model import RegionVLM

    def build(*overrides: str, seed: int = 0) -> RegionVLM:
        torch.manual_seed(seed)
        model = RegionVLM.from_recipe(tiny_recipe(*overrides))
        if model.decoder.needs_vocabulary():
            model.decoder.learn_vocabulary(TEXTS)
        return model.eval()

    return build


@pytest.fixture
def pretrained_decoder(tmp_path):
    """``pretrained_decoder(vocab_size=320, **generation)`` -> a tiny Qwen2 of width 32, and the folder that holds it.

    It lies there as in a hub repository, with a tokenizer of at most 320 entries and settings for generation.
    """
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    from pam_kit.components.decoders.vocabulary import learn_tokenizer

    def save(vocab_size: int = 320, **generation):
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            initializer_range=0.3,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        )
        model = Qwen2ForCausalLM(config).eval()
        model.generation_config = GenerationConfig(**generation)
        model.save_pretrained(tmp_path / "decoder")
        learn_tokenizer(TEXTS, 320).save_pretrained(tmp_path / "decoder")
        return model, tmp_path / "decoder"

    return save


@pytest.fixture
def sample_batch():
    """``sample_batch(regions=(3, 2), questions=5, ...)`` -> RegionBatch: pictures of noise, prompts of every kind.

    ``regions`` holds the number of regions of each picture; question i is about region i modulo their number.
    """
    import torch

    from pam_kit.contracts import Questions, RegionBatch

    def build(regions: tuple[int, ...] = (3, 2), questions: int = 5, image_size: int = 64, cells: int = 16, seed=0):
        generator = torch.Generator().manual_seed(seed)
        size = (len(regions), 3, image_size, image_size)
        images = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        num_regions = sum(regions)
        image_index = torch.tensor([image for image, count in enumerate(regions) for _ in range(count)]).long()
        region_index = torch.tensor([i % max(num_regions, 1) for i in range(questions)]).long()
        asked = list(zip(*islice(cycle(ASKED), questions), strict=True)) or [()] * 4
        return RegionBatch(
            images=images,
            image_index=image_index,
            prompts=_mixed_prompts(num_regions, image_size, cells, generator),
            questions=Questions(region_index, *map(list, asked)),
            target_masks=(torch.rand(num_regions, 1, cells, cells, generator=generator) > 0.5).float(),
            has_target=torch.ones(num_regions, dtype=torch.bool),
        )

    return build


def _mixed_prompts(count: int, image_size: int, cells: int, generator):
    """A box, a point, a positive and a negative point, a mask, and so on, each at a random place."""
    import torch

    from pam_kit.contracts import PromptBatch

    points = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values * image_size
    labels = torch.tensor([[2, 3], [1, -1], [1, 0], [-1, -1]])[torch.arange(count) % 4].reshape(count, 2)
    has_mask = torch.arange(count) % 4 == 3
    drawn = torch.zeros(count, 1, cells, cells)
    drawn[:, :, cells // 4 : cells // 2, cells // 3 : cells - 2] = 1
    return PromptBatch(points, labels, drawn * has_mask[:, None, None, None], has_mask)


@pytest.fixture(scope="session")
def released_name():
    """``released_name("transformer.blocks.1.self_attention.query.bias")`` -> ``layers.1.self_attn.q_proj.bias``."""
    from pam_kit.released.names import released_perceiver_name

    return released_perceiver_name


class Golden:
    """Reference tensors and the formula that their weights and inputs come from."""

    def __init__(self, folder: Path):
        spec = spec_from_file_location("golden_recipe", folder / "recipe.py")
        self.folder, self._recipe = folder, module_from_spec(spec)
        spec.loader.exec_module(self._recipe)

    def load(self, name: str) -> tuple[dict, dict[str, str]]:
        """Tensors and metadata of ``public/<name>.safetensors``."""
        from safetensors.torch import safe_open

        with safe_open(self.folder / "public" / f"{name}.safetensors", "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()

    def weight(self, seed: int, key: str, shape):
        import torch

        return torch.from_numpy(self._recipe.weight(seed, key, shape))

    def input(self, seed: int, name: str, shape):
        import torch

        return torch.from_numpy(self._recipe.tensor_input(seed, name, shape))


@pytest.fixture(scope="session")
def golden() -> Golden:
    """The golden data; a test that asks for them is skipped where they are absent."""
    if not (GOLDEN / "recipe.py").is_file():
        pytest.skip(f"golden data ({GOLDEN}) are absent")
    return Golden(GOLDEN)
