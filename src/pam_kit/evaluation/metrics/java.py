"""The Java programs that pycocoevalcap brings: where they lie, and how to do without hanging. Torch-free."""

import importlib.util
import shutil
from pathlib import Path

from pam_kit.errors import MissingPackageError, PamKitError

# Whatever a reader of lines may take for the end of one; a tab separates nothing either.
_ENDS_OF_LINES = dict.fromkeys(map(ord, "\n\r\x0b\x0c\x85\u2028\u2029\t"), " ")


def java(needed_by: str) -> str:
    """The path of ``java``. Raises PamKitError where there is none."""
    found = shutil.which("java")
    if found is None:
        raise PamKitError(
            f"{needed_by} needs Java, and no program `java` is on the PATH; install a Java runtime of version 8 or "
            "later, such as the packages default-jre-headless (Debian, Ubuntu) or openjdk (conda)"
        )
    return found


def coco_caption_file(name: str, needed_by: str) -> Path:
    """A file of the package pycocoevalcap, by its name below it, such as ``meteor/meteor-1.5.jar``."""
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise MissingPackageError(f"{needed_by} needs the package pycocoevalcap: pip install 'pam-kit[eval]'")
    for folder in package.submodule_search_locations:
        if (path := Path(folder) / name).is_file():
            return path
    raise PamKitError(
        f"{needed_by} needs {name} of the package pycocoevalcap, which its installation lacks: "
        "pip install --force-reinstall pycocoevalcap"
    )


def one_line(text: str) -> str:
    """The text with a space for everything that could end a line, so that it stays one for any program."""
    return text.translate(_ENDS_OF_LINES)


def without_line_ends(text: str) -> str:
    """The text with a space for each line end and all else as written, for scorers that are no programs."""
    return text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")


def line_bytes(text: str) -> bytes:
    """UTF-8; halves of surrogate pairs, which are no text, become question marks."""
    return text.encode("utf-8", "replace")
