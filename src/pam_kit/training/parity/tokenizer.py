"""The small tokenizer of the golden files: 256 bytes in GPT-2's order, no merges, and Qwen2.5's special tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pam_kit.training.parity.golden_file import GoldenFile, GoldenFileError
from pam_kit.training.parity.report import Comparison, exact

FOLDER = "tiny_tokenizer"
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# They follow the bytes, from id 256 on.
_SPECIAL = (
    PAD,
    START,
    END,
    *(f"<|{what}_{end}|>" for what in ("object_ref", "box", "quad", "vision") for end in ("start", "end")),
    *(f"<|{what}_pad|>" for what in ("vision", "image", "video")),
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, from its description alone."""
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(_byte_letters())}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in _SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


@contextmanager
def tokenizer_folder(file: GoldenFile) -> Iterator[Path]:
    """The folder of the tokenizer beside a golden file, or one that is written anew where there is none."""
    beside = file.folder / FOLDER
    if beside.is_dir():
        yield beside
        return
    with TemporaryDirectory() as folder:
        tiny_tokenizer().save_pretrained(folder)
        yield Path(folder)


def check_tokenizer(file: GoldenFile) -> list[Comparison]:
    """An input of other files: it loads, and every entry has the id that the description gives it."""
    wanted, name = tiny_tokenizer(), file.path.name
    if name == "tokenizer.json":
        loaded = PreTrainedTokenizerFast(tokenizer_file=str(file.path))
        texts = ["A red cup.\n\n", f"{START}user\n对该目标{END}\n"]
        return [
            exact("entries", loaded.get_vocab(), wanted.get_vocab()),
            *(exact("ids of a text", loaded(text).input_ids, wanted(text).input_ids, of=text[:8]) for text in texts),
        ]
    if name == "tokenizer_config.json":
        stated = {int(i): token["content"] for i, token in file.json["added_tokens_decoder"].items()}
        return [exact("special ids", stated, dict(enumerate(_SPECIAL, start=256))), *_roles(file.json)]
    if name == "special_tokens_map.json":
        listed = [_word(token) for token in file.json["additional_special_tokens"]]
        return [exact("special tokens", listed, list(_SPECIAL[1:])), *_roles(file.json)]
    raise GoldenFileError(f"a tokenizer has no file {name} that is known here")


def _roles(settings: dict) -> list[Comparison]:
    stated = {role: _word(settings.get(f"{role}_token")) for role in ("eos", "pad")}
    return [exact("eos and pad token", stated, {"eos": END, "pad": PAD})]


def _word(token: str | dict | None) -> str | None:
    return token["content"] if isinstance(token, dict) else token


def _byte_letters() -> list[str]:
    """The letter that stands for each id: printable bytes stand for themselves and come first (GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(others)]
