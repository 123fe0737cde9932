"""Conversations against the released code's own: every golden case, and what the format promises beside them."""

import json
import re

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pam_kit.components.decoders.chat import ChatFormat
from pam_kit.components.decoders.conversation import NO_LABEL, REGION_ID, ChatML, Turn, read_conversation
from pam_kit.components.decoders.vocabulary import END, PAD, START, learn_tokenizer
from pam_kit.errors import PamKitError

CASES = (
    "single_en",
    "single_zh",
    "two_turns_with_newlines",
    "image_not_first_is_moved",
    "starts_with_gpt_turn_dropped",
    "video_prompt",
    "two_image_tags_not_moved",
    "no_image_tag",
)


@pytest.fixture(scope="module")
def released(golden):
    """The golden cases by name, and the tokenizer they were made with."""
    told = json.loads((golden.folder / "public/text/chat_cases.json").read_text(encoding="utf-8"))
    assert (told["ignore_index"], told["image_token_index"]) == (NO_LABEL, REGION_ID)
    assert {case["name"] for case in told["cases"]} == set(CASES), "every case of the file is looked at below"
    tokenizer = AutoTokenizer.from_pretrained(golden.folder / "public/tiny_tokenizer")
    return {case["name"]: case for case in told["cases"]}, tokenizer


def as_text(turns: list[Turn]) -> list[tuple[str, str]]:
    return [({"user": "human", "assistant": "gpt"}[turn.role], "<image>".join(turn.pieces)) for turn in turns]


@pytest.mark.parametrize("name", CASES)
def test_training_conversation(released, name):
    cases, tokenizer = released
    case = cases[name]
    turns = read_conversation(case["conversation_in"])
    after = [(turn["from"], turn["value"]) for turn in case["conversation_after_multimodal"]]
    assert as_text(turns) == (after[1:] if after[0][0] == "gpt" else after)
    made = ChatML(tokenizer).conversation(turns, "released")
    assert made.ids.tolist() == case["input_ids"] and len(made.ids) == case["n_tokens"]
    assert made.labels.tolist() == case["labels"]
    assert (made.labels != NO_LABEL).nonzero()[:, 0].tolist() == case["unmasked_positions"]
    pieces = tokenizer.decode(made.ids[made.ids != REGION_ID])
    assert pieces == case["training_text"].replace("<image>", "")


@pytest.mark.parametrize("name", CASES)
def test_inference_prompt(released, name):
    """The released prompt holds the first question only."""
    cases, tokenizer = released
    case = cases[name]
    ids = ChatML(tokenizer).prompt(read_conversation(case["conversation_in"])[:1])
    assert ids.tolist() == case["inference_input_ids"]
    assert tokenizer.decode(ids[ids != REGION_ID]) == case["inference_prompt"].replace("<image>", "")


@pytest.mark.parametrize("name", ["single_en", "single_zh", "video_prompt"])
def test_a_question_about_a_region_is_such_a_conversation(released, name):
    cases, tokenizer = released
    case = cases[name]
    (_, asked), (_, said) = as_text(read_conversation(case["conversation_in"]))
    made = ChatFormat(tokenizer, "chatml", "released")
    example = made.example(asked.removeprefix("<image>\n"), said)
    assert example.ids.tolist() == case["input_ids"] and example.labels.tolist() == case["labels"]
    assert made.prompt(asked.removeprefix("<image>\n")).tolist() == case["inference_input_ids"]


def test_a_question_about_no_region_has_no_place_for_one_and_no_line_break_before_it(released):
    cases, tokenizer = released
    case = cases["no_image_tag"]
    made = ChatFormat(tokenizer, "chatml", "released").example("Hello there.", "Hi.", about_region=False)
    assert made.ids.tolist() == case["input_ids"] and made.labels.tolist() == case["labels"]
    plain = ChatFormat(tokenizer, "plain").prompt("Hello there.", about_region=False)
    assert tokenizer.decode(plain) == "Hello there.\n"


def test_both_spellings_of_a_record_are_read(released):
    cases, _ = released
    records = cases["two_turns_with_newlines"]["conversation_in"]
    roles = {"human": "user", "gpt": "assistant"}
    other = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in records]
    assert read_conversation(other) == read_conversation(records)


def test_a_role_that_is_none_is_refused():
    with pytest.raises(PamKitError, match="a turn of 'bot'; its roles are system, human"):
        read_conversation([{"from": "bot", "value": "Hello"}])


QWEN_SPLIT = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"""


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """One that splits texts as Qwen's does, so that a doubled line break is a token of its own."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[PAD, START, END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(["one\n\ntwo\n\nthree cup cup"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=PAD, eos_token=PAD)


MERGING = merging_tokenizer()


@pytest.mark.parametrize("answer", ["a cup", "\na cup", " a cup", "cup\n\ncup", ""])
def test_answer_supervision_is_the_answer_and_its_end(answer):
    """In a turn that is tokenised as a whole, even where the answer's first line break merges with the opening's."""
    made = ChatML(MERGING).conversation([Turn("user", ("", "\nWhat?")), Turn("assistant", (answer,))], "answer")
    whole = MERGING(f"{START}assistant\n{answer}{END}\n").input_ids
    assert made.ids.tolist()[-len(whole) :] == whole
    learned = made.ids[made.labels != NO_LABEL]
    assert torch.equal(made.labels[made.labels != NO_LABEL], learned)
    assert MERGING.decode(learned).lstrip("\n") == f"{answer}{END}".lstrip("\n")
    assert learned[-1] == MERGING.convert_tokens_to_ids(END) and made.labels[-1] == NO_LABEL


def test_only_line_breaks_that_stand_alone_are_always_learned():
    single, double = (MERGING(text).input_ids for text in ("\n", "\n\n"))
    assert len(single) == len(double) == 1 and single != double
    turns = [Turn("user", ("one\n\ntwo\nthree",)), Turn("assistant", ("cup",))]
    made = ChatML(MERGING).conversation(turns, "released")
    user = made.ids.tolist().index(double[0])
    assert made.labels[user] == NO_LABEL
    alone = made.ids == single[0]
    assert alone.sum() == 7 and torch.equal(made.labels[alone], made.ids[alone])


def test_a_system_message_replaces_the_usual_one():
    records = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    made = ChatML(MERGING).prompt(read_conversation(records))
    text = MERGING.decode(made)
    assert re.findall(r"system\n(.*?)<", text) == ["Be brief."] and text.endswith(f"{START}assistant\n")


def test_a_mark_within_a_question_is_text():
    """Only data sets write regions as marks; a person who types one is asking about the word."""
    made = ChatFormat(MERGING, "chatml").prompt("What is <image>?")
    assert (made == REGION_ID).sum() == 1 and "<image>?" in MERGING.decode(made[made != REGION_ID])


@pytest.mark.parametrize(("template", "missing"), [("chatml", "<.im_start.>"), ("plain", "end-of-text")])
def test_a_tokenizer_without_the_tokens_of_a_format_is_refused(template, missing):
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(PamKitError, match=missing):
        ChatFormat(bare, template)


@pytest.mark.parametrize("about_region", [True, False])
def test_native_puts_the_region_where_the_users_turn_begins(about_region):
    tokenizer = learn_tokenizer(["cup"], 300)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}<me>"
    made = ChatFormat(tokenizer, "native").prompt("What?", about_region)
    before, after = "<system>You are a helpful assistant.</><user>", "What?</><me>"
    if about_region:
        place = made.tolist().index(REGION_ID)
        assert (tokenizer.decode(made[:place]), tokenizer.decode(made[place + 1 :])) == (before, f"\n{after}")
    else:
        assert tokenizer.decode(made) == before + after
