"""The kinds of golden files, told apart by where a file lies and what it holds, and what is compared in each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from pam_kit.training.parity.end_to_end import check_end_to_end
from pam_kit.training.parity.golden_file import GoldenFile, GoldenFileError
from pam_kit.training.parity.layout import check_config, check_keys
from pam_kit.training.parity.perceiver import check_perceiver
from pam_kit.training.parity.projectors import check_projector
from pam_kit.training.parity.report import Comparison, FileReport
from pam_kit.training.parity.sam2 import check_coordinates, check_images, check_mask_prompt
from pam_kit.training.parity.sam2_video import check_video
from pam_kit.training.parity.sequence import check_frame_sampling, check_sequence
from pam_kit.training.parity.text import check_conversations
from pam_kit.training.parity.tokenizer import check_tokenizer

GOLDEN_THREADS = 2


@dataclass(frozen=True)
class Kind:
    """Golden files of one subject.

    Args:
        name: what they are called in reports.
        pattern: what their path below the folder matches.
        check: what compares one of them.
        holds: how the name of a tensor begins that every one of them has; empty where the path says all.
    """

    name: str
    pattern: str
    check: Callable[[GoldenFile], list[Comparison]]
    holds: str = ""

    def fits(self, file: GoldenFile) -> bool:
        if not fnmatchcase(file.name, self.pattern):
            return False
        return not self.holds or any(name.startswith(self.holds) for name in file.names)


# The first that fits holds.
KINDS = (
    Kind("perceiver", "perceiver/*.safetensors", check_perceiver),
    Kind("projector", "projectors/*.safetensors", check_projector),
    Kind("frame sampling", "sequence/*.json", check_frame_sampling),
    Kind("sequence", "sequence/*.safetensors", check_sequence),
    Kind("conversations", "text/*.json", check_conversations),
    Kind("tokenizer", "tiny_tokenizer/*.json", check_tokenizer),
    Kind("SAM 2, clip", "sam2/*.safetensors", check_video, holds="frames_uint8"),
    Kind("SAM 2, mask prompt", "sam2/*.safetensors", check_mask_prompt, holds="mask_uint8"),
    Kind("SAM 2, coordinates", "sam2/*.safetensors", check_coordinates, holds="box_xyxy"),
    Kind("SAM 2, pictures", "sam2/*.safetensors", check_images, holds="image."),
    Kind("checkpoint keys", "keymap/*.json", check_keys),
    Kind("checkpoint config", "e2e/*config*.json", check_config),
    Kind("checkpoint keys", "e2e/*spec*.json", check_keys),
    Kind("end to end", "e2e/*.safetensors", check_end_to_end),
)


def check_file(file: GoldenFile) -> FileReport:
    """Compare all there is in a golden file; whatever goes wrong is its failure."""
    name = "unknown"
    try:
        kind = kind_of(file)
        name = kind.name
        with _golden_threads():
            comparisons, forgotten = kind.check(file), file.unread()
    except Exception as error:  # one broken file must not hide the others; the line says what happened
        own = isinstance(error, GoldenFileError)
        return FileReport(file.name, name, failure=str(error) if own else f"{type(error).__name__}: {error}")
    failure = f"nothing was compared with {', '.join(forgotten)}" if forgotten else ""
    return FileReport(file.name, name, tuple(comparisons), failure)


@contextmanager
def _golden_threads() -> Iterator[None]:
    """As many threads as the golden files were computed with: the order of sums depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(GOLDEN_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def kind_of(file: GoldenFile) -> Kind:
    """The kind of a file. Raises GoldenFileError where it is of none."""
    for kind in KINDS:
        if kind.fits(file):
            return kind
    known = ", ".join(dict.fromkeys(kind.pattern for kind in KINDS))
    raise GoldenFileError(f"unknown kind of golden file; known: {known}")


def kinds_in_words() -> str:
    """What is known, for people: each pattern, and the first line of what its check says of itself."""
    return "\n".join(f"{kind.pattern:<26}{(kind.check.__doc__ or '').splitlines()[0]}" for kind in KINDS)
