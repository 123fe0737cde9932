"""The language-model decoder: its loss against a plain full computation, its answers against a loop by hand."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.components.decoders.sequence import like_lengths
from pam_kit.contracts import GeneratedText, Questions
from pam_kit.errors import CheckpointError, PamKitError, RecipeError

WIDTH, PREFIX = 32, 5
QUESTIONS = (
    "Name it.",
    "Provide a comprehensive and detailed description for this subject, its surroundings and its use, please.",
    "对该目标对象进行分类并给出标签",
    "What?",
    "Provide a concise caption for this subject.",
)
ANSWERS = (
    "cup",
    "A red cup that stands left of a small green ball.",
    "红色的杯子",
    "a ball , and\na cup",
    "it's 50% off",
)
CHATML = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    "\n{}<|im_end|>\n<|im_start|>assistant\n",
)
# A format of no model, so that nothing but the tokenizer's own template can produce it.
NATIVE_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<me>{% endif %}"
)
NATIVE = ("<system>You are a helpful assistant.</><user>", "\n{}</><me>")
# The sizes of a random decoder; logits of this architecture are what its vocabulary projection yields.
SIZES = dict(hidden_size=WIDTH, num_layers=2, num_heads=4, vocab_size=320, max_length=512)


def decoder(seed: int = 0, spread: float = 15.0, **arguments) -> CausalLM:
    """A random decoder in eval mode; ``spread`` times wider weights make it say more than its last word again."""
    torch.manual_seed(seed)
    made = CausalLM(**{**SIZES, "template": "plain", **arguments}).eval()
    for weight in (p.data for p in made.lm.parameters() if p.ndim > 1):
        weight *= spread
    if made.needs_vocabulary():
        made.learn_vocabulary(QUESTIONS + ANSWERS)
    return made


def asked(regions=(0, 1, 1, 2, 0), rows=range(5)) -> Questions:
    rows = list(rows)
    region_index = torch.tensor([regions[i] for i in rows])
    questions, answers = [QUESTIONS[i] for i in rows], [ANSWERS[i] for i in rows]
    return Questions(region_index, questions, answers, ["caption"] * len(rows), ["en"] * len(rows))


def random_prefix(regions: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(regions, PREFIX, WIDTH, generator=torch.Generator().manual_seed(seed))


def tokens(made: CausalLM, text: str) -> torch.Tensor:
    return torch.tensor(made.tokenizer(text, add_special_tokens=False).input_ids, dtype=torch.long)


def sequence(made: CausalLM, prefix: torch.Tensor, pieces: tuple[str, str], question: str) -> torch.Tensor:
    """The prompt of one question as embeddings (L, D), put together by hand; ``prefix`` (P, D)."""
    words = made.lm.get_input_embeddings()
    before, after = (words(tokens(made, piece.format(question))) for piece in pieces)
    return torch.cat([before, prefix.to(before.dtype), after])


def full_loss(made: CausalLM, prefix, pieces, question: str, answer: str, end: str) -> tuple[torch.Tensor, int]:
    """transformers' own loss of one question over the answer and its end, and the number of its tokens."""
    prompt = sequence(made, prefix, pieces, question)
    said = torch.cat([tokens(made, answer), torch.tensor([made.tokenizer.convert_tokens_to_ids(end)])])
    labels = torch.cat([torch.full((len(prompt),), -100), said])
    embeddings = torch.cat([prompt, made.lm.get_input_embeddings()(said)])
    return made.lm(inputs_embeds=embeddings[None], labels=labels[None]).loss, len(said)


def with_template(made: CausalLM, folder, template: str) -> CausalLM:
    """Give the decoder's tokenizer a chat template of its own, as one that comes from a file."""
    made.tokenizer.chat_template = NATIVE_TEMPLATE
    made.tokenizer.save_pretrained(folder)
    made.template = template
    made.load_tokenizer(str(folder))
    return made


FORMATS = {
    "plain": (("", "{}\n"), "<|endoftext|>"),
    "chatml": (CHATML, "<|im_end|>"),
    "native": (NATIVE, "<|endoftext|>"),
}


@pytest.mark.parametrize("template", FORMATS)
def test_loss_equals_transformers_full_computation_one_by_one(tmp_path, template):
    made, prefix, questions = decoder(), random_prefix(), asked()
    with_template(made, tmp_path, template)
    pieces, end = FORMATS[template]
    with torch.no_grad():
        out = made(prefix, questions)
        rows = zip(questions.region_index, QUESTIONS, ANSWERS, strict=True)
        single = [full_loss(made, prefix[region], pieces, q, a, end) for region, q, a in rows]
    losses, counts = torch.stack([loss for loss, _ in single]), torch.tensor([count for _, count in single])
    torch.testing.assert_close(out.per_question, losses, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.loss, (losses * counts).sum() / counts.sum(), atol=1e-4, rtol=1e-4)
    assert int(out.num_tokens) == int(counts.sum())


@pytest.mark.parametrize("architecture", ["gemma2", "cohere", "granite", "llama"])
def test_loss_of_architectures_that_change_logits_after_the_projection(architecture):
    """gemma2 caps logits, cohere and granite scale them (here by a factor that shows)."""
    made = decoder(architecture=architecture)
    made.lm.logit_scale, made.lm.config.logits_scaling = 0.25, 3.0
    prefix = random_prefix()
    seen = {}
    made.lm.get_output_embeddings().register_forward_hook(lambda _module, _inputs, output: seen.update(out=output))
    with torch.no_grad():
        out = made(prefix, asked())
        for row, (region, question, answer) in enumerate(zip((0, 1, 1, 2, 0), QUESTIONS, ANSWERS, strict=True)):
            single, _ = full_loss(made, prefix[region], *FORMATS["plain"][:1], question, answer, "<|endoftext|>")
            assert float(out.per_question[row]) == pytest.approx(float(single), rel=1e-4)
        logits = made.lm(inputs_embeds=prefix).logits
    assert torch.allclose(logits, seen["out"]) == (architecture == "llama")


def test_gradients_equal_those_of_the_full_computation():
    prefix, grads = random_prefix().requires_grad_(), []
    for supervised_only in (True, False):
        made = decoder()
        if supervised_only:
            loss = made(prefix, asked(rows=[1])).loss
        else:
            loss, _ = full_loss(made, prefix[1], FORMATS["plain"][0], QUESTIONS[1], ANSWERS[1], "<|endoftext|>")
        grads.append(torch.autograd.grad(loss, [prefix, *made.lm.parameters()]))
    for own, full in zip(*grads, strict=True):
        torch.testing.assert_close(own, full, atol=1e-5, rtol=1e-4)


def test_only_supervised_positions_reach_the_vocabulary():
    made, rows = decoder(), []
    made.lm.get_output_embeddings().register_forward_hook(lambda _module, inputs, _output: rows.append(inputs[0].shape))
    out = made(random_prefix(), asked())
    expected = sum(len(tokens(made, answer)) + 1 for answer in ANSWERS)
    assert sum(count for count, _width in rows) == expected == int(out.num_tokens)
    made.lm(inputs_embeds=random_prefix())
    assert rows[-1] == (3, PREFIX, WIDTH), "the model must be whole again after the loss"


def test_a_batch_is_split_by_length_only_where_that_saves_padding():
    assert sorted(map(sorted, like_lengths([5, 42, 6, 43, 5]))) == [[0, 2, 4], [1, 3]]
    assert [sorted(group) for group in like_lengths([15, 16, 15, 16])] == [[0, 1, 2, 3]]
    assert like_lengths([7]) == [[0]]


def test_a_question_about_another_region_reads_that_regions_prefix():
    made, prefix = decoder(), random_prefix()
    before = made(prefix, asked()).per_question
    prefix[1] += 1
    changed = (made(prefix, asked()).per_question - before).abs() > 1e-4
    assert changed.tolist() == [False, True, True, False, False]


def by_hand(made: CausalLM, embeddings: torch.Tensor, end: int, steps: int) -> GeneratedText:
    """Greedy decoding of one prompt (L, D): every step computes the whole sequence anew."""
    said, log_probability = [], 0.0
    while len(said) < steps and (not said or said[-1] != end):
        logs = made.lm(inputs_embeds=embeddings[None], use_cache=False).logits[0, -1].float().log_softmax(-1)
        said.append(int(logs.argmax()))
        log_probability += float(logs[said[-1]])
        embeddings = torch.cat([embeddings, made.lm.get_input_embeddings()(torch.tensor(said[-1:]))])
    text = made.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    return GeneratedText(text, math.exp(log_probability / len(said)))


def assert_same(found: list[GeneratedText], expected: list[GeneratedText]) -> None:
    assert [answer.text for answer in found] == [answer.text for answer in expected]
    assert [answer.score for answer in found] == pytest.approx([answer.score for answer in expected], abs=1e-4)


@pytest.mark.parametrize("template", ["plain", "chatml"])
@pytest.mark.parametrize("seed", range(4))
def test_batched_answers_equal_greedy_decoding_by_hand(seed, template):
    """Questions of 5 to 100 tokens in one batch, thus with much padding, answered as each would be alone."""
    made, prefix, questions = decoder(seed, template=template), random_prefix(seed=seed), asked()
    pieces, end = FORMATS[template]
    found = made.generate(prefix, questions, max_new_tokens=8)
    with torch.no_grad():
        end_id = made.tokenizer.convert_tokens_to_ids(end)
        rows = zip(questions.region_index, QUESTIONS, strict=True)
        expected = [by_hand(made, sequence(made, prefix[r], pieces, q), end_id, 8) for r, q in rows]
    assert_same(found, expected)
    assert len({answer.text for answer in found}) > 1 and all(0 <= answer.score <= 1 for answer in found)


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_batched_answers_equal_single_ones_in_other_architectures(architecture):
    made, prefix = decoder(architecture=architecture, spread=5), random_prefix()
    single = [made.generate(prefix, asked(rows=[row]), 6)[0] for row in range(5)]
    assert_same(made.generate(prefix, asked(), 6), single)


def test_an_answer_ends_at_its_end_token():
    """Row i is made to end after i + 1 tokens; it says what it would have said by then, at the same probabilities."""
    made, prefix, questions, step = decoder(), random_prefix(), asked(), []
    end = made.tokenizer.eos_token_id
    bare = [made.generate(prefix, asked(rows=[row]), row + 1)[0] for row in range(5)]

    def end_rows(_module, _inputs, logits):
        logits = logits.clone()
        logits[..., end] = -1e4
        for row in range(len(logits)):
            if len(step) == row + 1:
                logits[row, -1, end] = 1e4
        step.append(None)
        return logits

    hook = made.lm.get_output_embeddings().register_forward_hook(end_rows)
    found = made.generate(prefix, questions, 12)
    hook.remove()
    assert len(step) == 6, "generation goes on until the last answer has ended, and no longer"
    assert [answer.text for answer in found] == [answer.text for answer in bare]
    # The end itself counts as a token of probability one.
    for row, answer in enumerate(found):
        count = row + 1
        assert answer.score == pytest.approx(bare[row].score ** (count / (count + 1)), rel=1e-3)


def test_no_question_no_answer():
    assert decoder().generate(random_prefix(), asked(rows=[]), 4) == []


def test_native_without_a_template_of_its_own_is_refused():
    made = decoder(template="native")
    with pytest.raises((ValueError, PamKitError), match="no chat template"):
        made(random_prefix(), asked())


def align_by_hand(made: CausalLM, features: torch.Tensor, questions: Questions) -> float:
    table = made.lm.get_input_embeddings().weight
    losses: dict[int, list[float]] = {}
    for region, answer in zip(questions.region_index.tolist(), questions.answers, strict=True):
        for word in tokens(made, answer).tolist():
            similar = [F.cosine_similarity(token, table, dim=-1) / 0.07 for token in features[region]]
            loss = -math.log(sum(float(row.softmax(-1)[word]) for row in similar) / len(similar))
            losses.setdefault(word, []).append(loss)
    return sum(sum(each) / len(each) for each in losses.values()) / len(losses)


def test_align_is_the_mean_over_distinct_words_of_the_tokens_mean_probability():
    made, features = decoder(), torch.randn(3, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = made.align(features, asked()), align_by_hand(made, features, asked())
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_align_in_closed_form():
    """With an orthonormal vocabulary of V words and one token on each of n words, each has (e^t + n - 1) / n out of
    e^t + V - 1, where t = 1 / 0.07."""
    made = decoder(hidden_size=320)
    made.lm.get_input_embeddings().weight.data = torch.eye(320)
    question = asked(rows=[0])
    said = tokens(made, ANSWERS[0]).unique()
    features = 3 * torch.eye(320)[said][None]
    sharp, count = math.exp(1 / 0.07), len(said)
    expected = -math.log((sharp + count - 1) / count / (sharp + 320 - 1))
    assert made.align(features, question).item() == pytest.approx(expected, abs=1e-6)


def test_align_falls_towards_the_words_of_the_answer():
    made, question = decoder(), asked(rows=[1])
    question.region_index = torch.tensor([0])
    words = made.lm.get_input_embeddings().weight[tokens(made, ANSWERS[1]).unique()].detach()[None]
    noise = torch.randn(words.shape, generator=torch.Generator().manual_seed(0)) * words.std()
    losses = [made.align(torch.lerp(noise, words, share), question).item() for share in (0.0, 0.3, 0.6, 1.0)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 1
    features = noise.clone().requires_grad_()
    made.align(features, question).backward()
    assert features.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_of_half_the_size(dtype):
    made = decoder(dtype=dtype, spread=1)
    assert {p.dtype for p in made.lm.parameters()} == {getattr(torch, dtype)}
    out = made(random_prefix(), asked())
    exact = decoder(spread=1)(random_prefix(), asked())
    torch.testing.assert_close(out.loss, exact.loss, atol=0.05, rtol=0)
    assert out.loss.dtype == torch.float32 and len(made.generate(random_prefix(), asked(), 3)) == 5


def test_answers_are_greedy_whatever_the_model_was_published_with(pretrained_decoder):
    published = dict(do_sample=True, temperature=5.0, top_k=50, repetition_penalty=3.0, no_repeat_ngram_size=1)
    _, folder = pretrained_decoder(**published)
    made, prefix = CausalLM(folder, template="plain").eval(), random_prefix()
    found = made.generate(prefix, asked(), 8)
    with torch.no_grad():
        end = made.tokenizer.eos_token_id
        prompts = [sequence(made, prefix[r], FORMATS["plain"][0], QUESTIONS[i]) for i, r in enumerate((0, 1, 1, 2, 0))]
        assert_same(found, [by_hand(made, prompt, end, 8) for prompt in prompts])


def test_without_a_tokenizer_nothing_can_be_asked(tmp_path):
    made = CausalLM(**SIZES)
    assert made.needs_vocabulary()
    for use in (made.forward, lambda *a: made.generate(*a, 3), lambda *_: made.save_tokenizer(str(tmp_path))):
        with pytest.raises(CheckpointError, match="no tokenizer yet"):
            use(random_prefix(), asked())


def mixed_prefix() -> list[torch.Tensor]:
    """Regions of different length, as those of clips and images are."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(length, WIDTH, generator=generator) for length in (9, 2, 5)]


@pytest.mark.parametrize("template", ["plain", "chatml"])
def test_regions_of_different_length_and_none(template):
    """Answers and losses are those of every question alone; -1 asks about no region, and its line break is gone."""
    made, prefix = decoder(template=template), mixed_prefix()
    questions = asked(regions=(0, 1, -1, 2, -1))
    (before, after), end = FORMATS[template]
    bare = (before, after.removeprefix("\n"))
    with torch.no_grad():
        out, found = made(prefix, questions), made.generate(prefix, questions, 6)
        for row, region in enumerate((0, 1, -1, 2, -1)):
            pieces = (before, after) if region >= 0 else bare
            own = prefix[region] if region >= 0 else torch.empty(0, WIDTH)
            loss, _ = full_loss(made, own, pieces, QUESTIONS[row], ANSWERS[row], end)
            assert float(out.per_question[row]) == pytest.approx(float(loss), abs=1e-4)
            end_id = made.tokenizer.convert_tokens_to_ids(end)
            said = by_hand(made, sequence(made, own, pieces, QUESTIONS[row]), end_id, 6)
            assert_same([found[row]], [said])


def test_questions_about_nothing_need_no_region():
    made, questions = decoder(), asked(regions=(-1,) * 5)
    out = made([], questions)
    assert torch.isfinite(out.loss) and len(made.generate([], questions, 2)) == 5


@pytest.mark.parametrize("template", FORMATS)
@pytest.mark.parametrize("supervision", ["answer", "released"])
def test_the_number_of_supervised_tokens_is_known_beforehand(tmp_path, template, supervision):
    if supervision == "released" and template != "chatml":
        with pytest.raises(RecipeError, match="supervision=released needs decoder.template=chatml"):
            decoder(template=template, supervision=supervision)
        return
    made = with_template(decoder(template=template, supervision=supervision), tmp_path, template)
    questions = asked(regions=(0, 1, -1, 2, -1))
    assert made.num_supervised_tokens(questions, [PREFIX] * 3) == int(made(random_prefix(), questions).num_tokens)


@pytest.mark.parametrize("limit", [None, 20, 35, 60])
def test_what_is_cut_off_and_what_is_read_is_counted(limit):
    """Regions of unlike lengths, of which some leave no room for an answer: against the labels and the mask."""
    made, questions = decoder(max_positions=limit), asked(regions=(0, 1, -1, 2, -1))
    prefix = [torch.randn(length, WIDTH) for length in (2, 7, 40)]
    sequences, out = made.sequences(prefix, questions), made(prefix, questions)
    supervised = int((sequences.labels[:, 1:] >= 0).sum())
    assert made.num_supervised_tokens(questions, [2, 7, 40]) == supervised == int(out.num_tokens)
    assert out.num_positions == int(sequences.attention_mask.sum())
    whole = decoder().num_supervised_tokens(questions, [2, 7, 40])
    assert supervised < whole if limit else supervised == whole


def test_a_sequence_longer_than_the_model_is_refused_and_not_cut():
    made, questions = decoder(max_length=64), asked(rows=[0])
    made([torch.zeros(40, WIDTH)], questions)
    for use in (made.forward, lambda *given: made.generate(*given, 3)):
        with pytest.raises(PamKitError, match="too long for a decoder made for 64.*decoder.max_positions"):
            use([torch.zeros(64, WIDTH)], questions)


def test_an_answer_ends_where_the_model_does():
    made, questions = decoder(max_length=64), asked(rows=[0])
    steps = []
    made.lm.get_output_embeddings().register_forward_hook(lambda *_: steps.append(None))
    prompt = len(tokens(made, f"{QUESTIONS[0]}\n"))
    made.generate([torch.zeros(60 - prompt, WIDTH)], questions, 30)
    assert 1 <= len(steps) <= 4


def test_max_positions_cuts_what_stands_behind():
    """The loss is that of the words which remain; nothing to learn from is an error."""
    whole, prefix, question = decoder(), random_prefix(), asked(rows=[1])
    prompt = PREFIX + len(tokens(whole, f"{QUESTIONS[1]}\n"))
    cut = decoder(max_positions=prompt + 4)
    seen = cut(prefix, question)
    assert int(seen.num_tokens) == 4
    words = whole.lm.get_input_embeddings()
    said = tokens(whole, ANSWERS[1])[:4]
    embeddings = torch.cat([sequence(whole, prefix[1], ("", "{}\n"), QUESTIONS[1]), words(said)])
    logits = whole.lm(inputs_embeds=embeddings[None]).logits[0, prompt - 1 : -1]
    assert seen.loss.item() == pytest.approx(F.cross_entropy(logits, said).item(), abs=1e-4)
    with pytest.raises(PamKitError, match=f"max_positions={prompt} cuts off all that could be learned"):
        decoder(max_positions=prompt)(prefix, question)


def test_align_leaves_out_questions_about_no_region():
    made, features = decoder(), torch.randn(3, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        some = made.align(features, asked(regions=(0, -1, 1, -1, 2)))
        assert some == made.align(features, asked(regions=(0, 0, 1, 0, 2), rows=[0, 2, 4]))
    features.requires_grad_()
    none = made.align(features, asked(regions=(-1,) * 5))
    none.backward()
    assert none == 0 and torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2", "gpt_neox", "gpt2"])
def test_layers_are_those_that_are_computed_one_after_another(architecture):
    made, seen = decoder(architecture=architecture), []
    assert len(made.layers()) == 2
    for layer in made.layers():
        layer.register_forward_hook(lambda module, *_: seen.append(module))
    made(random_prefix(), asked(rows=[0]))
    assert seen == made.layers()


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("arguments", [{}, {"lora_rank": 2}], ids=["plain", "adapters"])
def test_layers_may_be_recomputed_in_the_backward_pass(mode, arguments):
    """As activation checkpointing does: each layer's forward under a checkpoint that is not reentrant."""
    (once, expected), (twice, found) = (layer_gradients(mode, arguments, recomputed) for recomputed in (False, True))
    assert twice > once, "the layers were computed again"
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


def layer_gradients(mode: str, arguments: dict, recomputed: bool) -> tuple[int, list[torch.Tensor]]:
    """How often a layer's attention was computed, and the gradients of all that learns."""
    made, calls = decoder(**arguments), []
    getattr(made, mode)()
    prefix = random_prefix().requires_grad_()
    for layer in made.layers():
        layer.self_attn.register_forward_pre_hook(lambda *_: calls.append(None))
        if recomputed:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    made(prefix, asked(rows=[0, 2, 4])).loss.backward()
    return len(calls), [prefix.grad, *(p.grad for p in made.parameters() if p.requires_grad)]
