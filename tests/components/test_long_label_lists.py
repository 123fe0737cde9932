"""Lists of the size of LVIS: 1,203 labels that share their beginnings score what each of them scores alone."""

from itertools import product

import pytest
import torch

from pam_kit.components.decoders.answer_tree import AnswerTree, answer_words
from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.contracts import Decoder, Questions

WIDTH, LABELS = 32, 1203
QUESTION = "Classify this subject and provide its label."
KINDS = (
    "water tea coffee beer milk soup wine garden kitchen bath bed table picture paper plastic wooden steel glass toy "
    "leather baby bird dog cat horse sugar salt pepper fire hand foot ski snow tennis golf bottle book flower rain wall"
).split()
THINGS = (
    "bottle cup mug pot bowl basket box bag cover holder stand rack case brush cloth mat lamp clock knife spoon lid "
    "handle strap hook cap shelf drawer fork glass tray"
).split()


@pytest.fixture(scope="module")
def labels() -> list[str]:
    """Names of one and two words, of which some begin others, in no order."""
    # Of all pairs, so that every kind has most of its things; "bottle" and "glass" are kinds and things.
    names = list(dict.fromkeys([*THINGS, *(f"{kind} {thing}" for kind, thing in product(KINDS, THINGS))]))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(2)).tolist()
    return [names[place] for place in order[:LABELS]]


@pytest.fixture(scope="module")
def decoder(labels) -> CausalLM:
    """Random, with weights that make what it says depend on all that came before."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=WIDTH, num_layers=2, num_heads=4, vocab_size=600, max_length=256)
    made = CausalLM(**sizes, template="plain").eval()
    for weight in (p.data for p in made.lm.parameters() if p.ndim > 1):
        weight *= 8
    made.learn_vocabulary([QUESTION, *labels])
    return made


@torch.no_grad()
def test_a_long_list_scores_what_its_labels_score_alone(decoder, labels):
    prefix = torch.randn(2, 9, WIDTH, generator=torch.Generator().manual_seed(1))
    asked = Questions(torch.tensor([0, 1]), [QUESTION] * 2, [""] * 2, ["recognize"] * 2, ["en"] * 2)
    found = decoder.score_answers(prefix, asked, labels)
    assert found.log_probability.shape == (2, LABELS) and found.num_tokens.shape == (LABELS,)
    some = torch.randperm(LABELS, generator=torch.Generator().manual_seed(3))[:80].tolist()
    alone = Decoder.score_answers(decoder, prefix, asked, [labels[place] for place in some])
    assert torch.allclose(found.log_probability[:, some], alone.log_probability, atol=1e-4)
    assert torch.equal(found.num_tokens[some], alone.num_tokens)
    # What is compared is not all alike.
    assert alone.log_probability.std(1).min() > 1 and (alone.log_probability[0] - alone.log_probability[1]).std() > 0.1


@torch.no_grad()
def test_a_long_list_takes_several_passes_over_what_its_labels_share(decoder, labels):
    tree = AnswerTree.of([answer_words(decoder._format, QUESTION, label) for label in labels])
    tokens = sum(len(answer_words(decoder._format, QUESTION, label)) for label in labels)
    assert len(tree.words) < 0.75 * tokens
    passes = []
    hook = decoder.lm.model.layers[0].register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].shape[1]))
    asked = Questions(torch.tensor([0]), [QUESTION], [""], ["recognize"], ["en"])
    decoder.score_answers(torch.zeros(1, 9, WIDTH), asked, labels)
    hook.remove()
    # The region, the question, and the nodes in parts; a part reads again what leads to its first node.
    assert len(passes) > 3 and max(passes) <= 1024 + tree.depth
    assert sum(passes[2:]) < len(tree.inner) + len(passes) * tree.depth
