"""A small random decoder that says something, and what is read by it and asked of it."""

import pytest
import torch

from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.contracts import GeneratedText, Questions

WIDTH, LENGTH = 32, 11
QUESTIONS = (
    "Name it.",
    "Provide a comprehensive and detailed description for this subject, its surroundings and its use, please.",
    "对该目标对象进行分类并给出标签",
    "What?",
)
SIZES = dict(hidden_size=WIDTH, num_layers=2, num_heads=4, vocab_size=320, max_length=512, template="plain")


def _decoder(seed: int = 0, spread: float = 15.0, **arguments) -> CausalLM:
    """A random decoder in eval mode; ``spread`` times wider weights make it say more than its last word again."""
    torch.manual_seed(seed)
    made = CausalLM(**{**SIZES, **arguments}).eval()
    for weight in (p.data for p in made.lm.parameters() if p.ndim > 1):
        weight *= spread
    if made.needs_vocabulary():
        made.learn_vocabulary(QUESTIONS)
    return made


def _asked(regions=(0, 1, 2)) -> Questions:
    texts = [QUESTIONS[i % len(QUESTIONS)] for i in range(len(regions))]
    return Questions(torch.tensor(regions), texts, [""] * len(texts), ["caption"] * len(texts), ["en"] * len(texts))


def _region_embeddings(regions: int = 3, length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    return torch.randn(regions, length, WIDTH, generator=torch.Generator().manual_seed(seed))


def _read_in_parts(made: CausalLM, embeddings: torch.Tensor, parts=(1, 7, 3)):
    reading = made.start_reading(len(embeddings))
    for part in embeddings.split(list(parts), dim=1):
        reading.read(part)
    return reading


def _assert_same(found: list[GeneratedText], expected: list[GeneratedText]) -> None:
    assert [answer.text for answer in found] == [answer.text for answer in expected]
    assert [answer.score for answer in found] == pytest.approx([answer.score for answer in expected], abs=1e-4)


def _force_ends(made: CausalLM) -> None:
    """Row i is made to end after i + 2 tokens, and never before; behind an answer no row looks at its logits."""
    steps = []

    def end_rows(_module, _inputs, logits):
        logits = logits.clone()
        logits[..., made.tokenizer.eos_token_id] = -1e4
        # Those that have ended are the first, and are computed along or not.
        for row in range(3):
            if len(steps) == row + 1:
                logits[row - 3 + len(logits), ..., made.tokenizer.eos_token_id] = 1e4
        steps.append(None)
        return logits

    made.lm.get_output_embeddings().register_forward_hook(end_rows)


@pytest.fixture(scope="session")
def decoder():
    """See ``_decoder``."""
    return _decoder


@pytest.fixture(scope="session")
def asked():
    """See ``_asked``."""
    return _asked


@pytest.fixture(scope="session")
def region_embeddings():
    """See ``_region_embeddings``."""
    return _region_embeddings


@pytest.fixture(scope="session")
def read_in_parts():
    """See ``_read_in_parts``."""
    return _read_in_parts


@pytest.fixture(scope="session")
def assert_same():
    """See ``_assert_same``."""
    return _assert_same


@pytest.fixture(scope="session")
def force_ends():
    """See ``_force_ends``."""
    return _force_ends
