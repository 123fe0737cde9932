"""Answers scored along their tree: the log-probabilities of each answer alone, whatever is shared."""

import pytest
import torch

from pam_kit.components.decoders import tree_scoring
from pam_kit.components.decoders.answer_tree import AnswerTree, answer_words
from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.contracts import Decoder, Questions
from pam_kit.errors import PamKitError

WIDTH = 32
TEXTS = ("What is this?", "A cup, a bowl and a ball stand on a table.", "这是什么？", "杯子和碗", "cupboard cup cups")
LABELS = ("cup", "cups", "cupboard", "bowl", "a bowl", "a ball", "table", "杯子", "碗", "a cup on a table, and a ball")
SIZES = dict(hidden_size=WIDTH, num_layers=2, num_heads=4, vocab_size=340, max_length=256)
NATIVE_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<me>{% endif %}"
)


def decoder(spread: float = 8.0, **arguments) -> CausalLM:
    """A random decoder; wider weights make what it says depend on all that came before."""
    torch.manual_seed(0)
    made = CausalLM(**{**SIZES, **arguments}).eval()
    for weight in (p.data for p in made.lm.parameters() if p.ndim > 1):
        weight *= spread
    made.learn_vocabulary(TEXTS)
    made.tokenizer.chat_template = NATIVE_TEMPLATE
    return made


def asked(regions=(0, 1, 2), texts=("What is this?",)) -> Questions:
    words = [texts[i % len(texts)] for i in range(len(regions))]
    return Questions(torch.tensor(regions), words, [""] * len(words), ["recognize"] * len(words), ["en"] * len(words))


def embeddings(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, WIDTH, generator=generator) for length in lengths or (7, 7, 7)]


def alone(made: CausalLM, prefix, questions: Questions, labels=LABELS) -> torch.Tensor:
    """Each answer teacher-forced in a sequence of its own, the words' probabilities taken from all logits."""
    rows = []
    for region, question in zip(questions.region_index.tolist(), questions.questions, strict=True):
        for label in labels:
            form = made._format
            ids = torch.cat([form.prompt(question, region >= 0), torch.tensor(_said(made, label))])
            words = made.lm.get_input_embeddings()
            parts = [prefix[region] if i == -200 else words(torch.tensor([i])) for i in ids.tolist()]
            count = len(_said(made, label))
            logits = made.lm(inputs_embeds=torch.cat(parts)[None]).logits[0, -count - 1 : -1]
            rows.append(logits.log_softmax(-1).gather(1, ids[-count:, None]).sum())
    return torch.stack(rows).view(len(questions), len(labels))


def _said(made: CausalLM, label: str) -> list[int]:
    return [*made.tokenizer(label, add_special_tokens=False).input_ids, made._format.end]


@pytest.mark.parametrize("template", ["plain", "chatml", "native"])
@torch.no_grad()
def test_the_tree_scores_what_each_answer_scores_alone(template):
    made, prefix = decoder(template=template), embeddings()
    questions = asked((2, 0, 2, 1), ("What is this?", "Name it, please."))
    found = made.score_answers(prefix, questions, LABELS)
    assert torch.allclose(found.log_probability, alone(made, prefix, questions), atol=1e-4)
    assert found.num_tokens.tolist() == [len(_said(made, label)) for label in LABELS]
    # Teacher forcing by the decoder's own losses, an answer at a time: the contract's own way.
    by_hand = Decoder.score_answers(made, prefix, questions, LABELS)
    assert torch.allclose(found.log_probability, by_hand.log_probability, atol=1e-4)
    assert torch.equal(found.num_tokens, by_hand.num_tokens)
    # Words depend on what came before, so answers of several words are no sums of independent parts.
    assert found.log_probability.std(0).min() > 0.1


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_key_value_heads": 2},
        {"architecture": "gemma2", "spread": 4},
        {"architecture": "gpt_neox", "spread": 4},
        {"architecture": "gpt2", "spread": 4},
        {"architecture": "llama", "num_key_value_heads": 1},
        {"architecture": "qwen3", "num_key_value_heads": 2},
    ],
    ids=lambda arguments: arguments.get("architecture", "qwen2"),
)
@torch.no_grad()
def test_other_architectures(arguments):
    made, prefix, questions = decoder(template="plain", **arguments), embeddings(), asked()
    found = made.score_answers(prefix, questions, LABELS).log_probability
    assert torch.allclose(found, alone(made, prefix, questions), atol=2e-4)


@pytest.mark.parametrize(("nodes", "logits"), [(1, 1 << 27), (3, 1 << 27), (1024, 1)])
@torch.no_grad()
def test_small_passes_say_the_same(monkeypatch, nodes, logits):
    made, prefix, questions = decoder(template="plain"), embeddings(), asked()
    whole = made.score_answers(prefix, questions, LABELS).log_probability
    monkeypatch.setattr(tree_scoring, "MOST_NODES", nodes)
    monkeypatch.setattr(tree_scoring, "MOST_LOGITS", logits)
    monkeypatch.setattr(tree_scoring, "FEWEST_NODES", 2)
    assert torch.allclose(made.score_answers(prefix, questions, LABELS).log_probability, whole, atol=1e-4)


@torch.no_grad()
def test_no_pass_has_more_nodes_than_it_may(monkeypatch):
    made, seen = decoder(template="plain"), []
    monkeypatch.setattr(tree_scoring, "MOST_NODES", 3)
    hook = made.lm.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    made.score_answers(embeddings(), asked(), LABELS)
    hook.remove()
    assert max(seen) == 3 and len(seen) > 6


@torch.no_grad()
def test_regions_of_different_length_and_no_region():
    made, prefix, questions = decoder(template="chatml"), embeddings(7, 4, 7), asked((0, -1, 1, 2, -1))
    found = made.score_answers(prefix, questions, LABELS).log_probability
    assert torch.allclose(found, alone(made, prefix, questions), atol=1e-4)
    assert torch.equal(found[1], found[4])


@torch.no_grad()
def test_a_region_and_a_question_are_read_once(monkeypatch):
    made, read = decoder(template="plain"), []
    hook = made.lm.model.layers[0].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape[:2].numel()))
    made.score_answers(embeddings(), asked(), LABELS)
    hook.remove()
    tree = AnswerTree.of([_said(made, label) for label in LABELS])
    question = len(made._format.prompt("What is this?")) - 1
    assert sum(read) == 3 * (7 + question + len(tree.inner))


def test_a_tree_shares_what_answers_begin_with():
    answers = [[5, 6, 9], [5, 7, 9], [5, 6, 8, 9], [4, 9], [5, 6, 9]]
    tree = AnswerTree.of(answers)
    assert len(tree.words) == 1 + len({tuple(a[: n + 1]) for a in answers for n in range(len(a))})
    assert sorted(tree.words[tree.inner].tolist()) == [4, 5, 6, 7, 8]
    assert tree.ends[0] == tree.ends[4] and len(set(tree.ends.tolist())) == 4 and tree.depth == 4
    for answer, end in zip(answers, tree.ends.tolist(), strict=True):
        way = []
        while end:
            way.append(int(tree.words[end]))
            end = int(tree.parents[end])
        assert way[::-1] == answer


def test_steps_add_up_along_the_tree():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 6, (20,), generator=generator).tolist()
    answers = [torch.randint(0, 3, (length,), generator=generator).tolist() for length in lengths]
    tree = AnswerTree.of(answers)
    steps = torch.randn(2, len(tree.words), generator=generator)
    for column, end in enumerate(tree.ends.tolist()):
        total = torch.zeros(2)
        while end:
            total, end = total + steps[:, end], int(tree.parents[end])
        assert torch.allclose(tree.along(steps)[:, column], total, atol=1e-5)


@torch.no_grad()
def test_all_answers_of_one_word_and_then_the_end_are_a_distribution():
    """Over all first words the probabilities of going on with them are 1 in total."""
    made = decoder(template="plain")
    tree = AnswerTree.of([[word] for word in range(made.lm.config.vocab_size)])
    scorer = tree_scoring.TreeScorer.of(made.lm, torch.stack(embeddings()))
    total = scorer.score([0, 2], torch.tensor([3, 4]), tree).logsumexp(-1)
    assert total.tolist() == pytest.approx([0, 0], abs=1e-4)


@torch.no_grad()
def test_likelihoods_leave_out_what_else_is_learned():
    """The released supervision also learns chat tokens, which are no part of the answer."""
    made, prefix = decoder(template="chatml"), embeddings()
    questions = Questions(torch.tensor([0, 2]), ["What is this?"] * 2, ["cup", "a bowl"], ["recognize"] * 2, ["en"] * 2)
    sums, counts = made.log_likelihoods(prefix, questions)
    loss = made(prefix, questions)
    assert torch.allclose(-sums / counts, loss.per_question, atol=1e-5)
    made.supervision = "released"
    made._use_tokenizer(made.tokenizer)
    again, same = made.log_likelihoods(prefix, questions)
    assert torch.allclose(again, sums, atol=1e-5) and torch.equal(same, counts)
    assert made(prefix, questions).num_tokens > counts.sum()
    assert made.score_answers(prefix, questions, ["a bowl"]).log_probability[1, 0] == pytest.approx(
        float(sums[1]), abs=1e-4
    )


def test_a_decoder_without_likelihoods_says_so():
    class Mute(CausalLM):
        log_likelihoods, score_answers = Decoder.log_likelihoods, Decoder.score_answers

    mute = Mute(**SIZES)
    with pytest.raises(PamKitError, match="Mute does not tell how likely"):
        mute.score_answers(embeddings(), asked(), LABELS)


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (["cup", ""], "has no words"),
        (["a<|im_end|>b"], "holds the token that ends answers"),
        (["cup " * 200], "too long for a decoder made for 256"),
    ],
)
def test_answers_that_cannot_be_scored(answers, told):
    with pytest.raises(PamKitError, match=told):
        decoder(template="chatml").score_answers(embeddings(), asked(), answers)


def test_positions_that_would_be_cut_are_refused():
    made = decoder(template="plain", max_positions=20)
    with pytest.raises(PamKitError, match=r"decoder\.max_positions=20"):
        made.score_answers(embeddings(), asked(), LABELS)
    long = Questions(torch.tensor([0]), ["What?"], ["a cup on a table " * 3], ["caption"], ["en"])
    with pytest.raises(PamKitError, match="cuts off a text"):
        made.log_likelihoods(embeddings(), long)


def test_a_model_without_masks_of_its_own_for_words_is_refused():
    made = decoder(template="plain")
    made.lm.config._attn_implementation = "flash_attention_2"
    with pytest.raises(PamKitError, match="flash_attention_2"):
        made.score_answers(embeddings(), asked(), LABELS)


def test_a_merging_answer_is_refused(monkeypatch):
    made = decoder(template="plain")
    form = made._format
    example = form.example

    def merged(question, answer, about_region=True):
        whole = example(question, answer, about_region)
        whole.ids[len(form.prompt(question, about_region)) - 1] += 1
        return whole

    monkeypatch.setattr(form, "example", merged)
    with pytest.raises(PamKitError, match="merges with the words before it"):
        answer_words(form, "What?", "cup")
