"""PTB tokens: what the published evaluation makes of texts, and that none is taken for another's."""

import pytest

from pam_kit.errors import PamKitError
from pam_kit.evaluation.metrics import ptb
from pam_kit.evaluation.metrics.ptb import ptb_tokens

# Facts of the tokenizer, each seen in the published evaluation.
TOKENS = {
    "A man's (neon) T-shirt isn't 50% off!": "a man 's -lrb- neon -rrb- t-shirt is n't 50 % off",
    "black & white; and/or 3.5kg, e.g. here.": "black & white and/or 3.5 kg e.g. here",
    "一只橘色的猫。": "一只橘色的猫 。",
    "“café” – so…": "café so",
    "...": "",
    "": "",
    "   ": "",
}
ENDS = ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\t", "\r\r", "\n\n")


def test_tokens_and_ends_of_lines(java):
    """One start of Java for all: what could end a line is a space, wherever it stands."""
    odd = [f"red{end}cup {place}" for place, end in enumerate(ENDS)]
    odd += [f"{end}cup {place}{end}" for place, end in enumerate(ENDS)]
    found = ptb_tokens([*TOKENS, *odd, "\ud83d x", "\x00a\u200b", *TOKENS])
    assert found[: len(TOKENS)] == list(TOKENS.values()) == found[-len(TOKENS) :]
    expected = [f"red cup {place}" for place in range(len(ENDS))] + [f"cup {place}" for place in range(len(ENDS))]
    assert found[len(TOKENS) : len(TOKENS) + len(odd)] == expected


def test_nothing_is_tokenised_without_java(fake_java):
    fake_java(None)
    assert ptb_tokens([]) == []
    with pytest.raises(PamKitError, match="the PTB tokenizer needs Java"):
        ptb_tokens(["a cup"])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo one line", "gave back 1 lines for 2 captions"),
        ("echo too many files >&2; exit 7", "failed with exit status 7: too many files"),
        ("exec sleep 100", "did not finish 2 captions"),
    ],
)
def test_a_tokenizer_that_fails_gives_no_tokens(fake_java, monkeypatch, script, message):
    pytest.importorskip("pycocoevalcap.bleu.bleu_scorer")
    fake_java(script)
    monkeypatch.setattr(ptb, "_START_SECONDS", 0.2 if "sleep" in script else 60)
    with pytest.raises(PamKitError, match=message):
        ptb_tokens(["a cup", "a dog"])


def test_known_captions_need_no_java(fake_java):
    pytest.importorskip("pycocoevalcap.bleu.bleu_scorer")
    fake_java("echo a cup; echo dog")
    assert ptb_tokens(["A cup.", "Dog"]) == ["a cup", "dog"]
    assert ptb_tokens(["Dog", "A cup.", "Dog"]) == ["dog", "a cup", "dog"]
    with pytest.raises(PamKitError, match="2 lines for 1 captions"):
        ptb_tokens(["Dog", "a bird"])
