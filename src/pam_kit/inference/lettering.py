"""Fonts and line breaks for text in pictures, English and Chinese.

Pillow's built-in font draws plain English. For characters it lacks, a font of the system is looked for; the
environment variable PAM_KIT_FONT names one instead.
"""

import os
import re
import shutil
import subprocess
import warnings
from functools import cache
from pathlib import Path

from PIL import ImageFont

from pam_kit.errors import PamKitError

FONT_VARIABLE = "PAM_KIT_FONT"
NO_FONT_NOTE = "[Chinese text: no font for it]"
REMEDY = (
    f"install one (Debian, Ubuntu: apt install fonts-noto-cjk) or name a font file: {FONT_VARIABLE}=/path/to/font.ttf"
)

# (file, face inside the file): the faces of Noto Sans CJK are JP, KR, SC, TC, HK.
_CJK_FONTS = (
    ("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc", 2),
    ("/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc", 2),
    ("/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc", 2),
    ("/usr/share/fonts/google-noto-sans-cjk-fonts/NotoSansCJK-Regular.ttc", 2),
    ("/usr/share/fonts/truetype/wqy/wqy-microhei.ttc", 0),
    ("/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc", 0),
    ("/System/Library/Fonts/PingFang.ttc", 0),
    ("/System/Library/Fonts/STHeiti Light.ttc", 0),
    ("/System/Library/Fonts/Hiragino Sans GB.ttc", 0),
    ("C:/Windows/Fonts/msyh.ttc", 0),
    ("C:/Windows/Fonts/simhei.ttf", 0),
    ("C:/Windows/Fonts/simsun.ttc", 0),
)
# For letters with accents and signs that Pillow's own font lacks.
_LATIN_FONTS = (
    ("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", 0),
    ("/usr/share/fonts/dejavu/DejaVuSans.ttf", 0),
    ("/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf", 0),
    ("/System/Library/Fonts/Supplemental/Arial.ttf", 0),
    ("C:/Windows/Fonts/arial.ttf", 0),
)
_BUILT_IN = ("", 0)
_CJK = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
# Closing punctuation stays on the line of the character before it.
_BREAKABLE = re.compile(f"[{_CJK}][，。、；：！？）》」』”’]*|[^\\s{_CJK}]+|\\s+")
_PROBE_SIZE = 16


def legible(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """The text and a font of ``size`` pixels that draws it.

    Where no font on this computer has Chinese characters, a text made of them is replaced by a note and the reader
    is warned, once. PamKitError where PAM_KIT_FONT names a file that is no font.
    """
    face, missing = _best_face(text)
    if missing:
        _warn_once(bool(_cjk(missing)))
    if len(_cjk(missing)) * 2 > len(_cjk(text)):
        return NO_FONT_NOTE, _font(*_BUILT_IN, size)
    return text, _font(*face, size)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines of at most ``width`` pixels. Breaks at spaces and between Chinese characters, inside a word only where
    the word alone is wider than a line. A character wider than ``width`` stands alone."""
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for piece in _BREAKABLE.findall(paragraph.strip()):
            if font.getlength(line + piece.rstrip()) <= width:
                line += piece if line or not piece.isspace() else ""
                continue
            if line.strip():
                lines.append(line.rstrip())
            *whole, line = _split_word(piece.lstrip(), font, width)
            lines += whole
        lines.append(line.rstrip())
    return lines


def _split_word(word: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    parts = [""]
    for character in word:
        if parts[-1] and font.getlength(parts[-1] + character) > width:
            parts.append("")
        parts[-1] += character
    return parts


def _cjk(text: str) -> list[str]:
    return re.findall(f"[{_CJK}]", text)


def _best_face(text: str) -> tuple[tuple[str, int], str]:
    """The first face that has every character, else the one that lacks fewest; and the characters that it lacks."""
    best = _BUILT_IN, _missing(_BUILT_IN, text)
    for face in _system_faces(os.environ.get(FONT_VARIABLE)) if best[1] else ():
        missing = _missing(face, text)
        if len(missing) < len(best[1]):
            best = face, missing
        if not missing:
            break
    return best


def _missing(face: tuple[str, int], text: str) -> str:
    return "".join(c for c in text if not c.isspace() and not _has_glyph(face, c))


@cache
def _has_glyph(face: tuple[str, int], character: str) -> bool:
    """Whether the face draws the character otherwise than one that no font has."""
    font = _font(*face, _PROBE_SIZE)
    drawn, absent = font.getmask(character), font.getmask("\U0010fffe")
    return drawn.size != absent.size or bytes(drawn) != bytes(absent)


@cache
def _font(path: str, face: int, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, index=face) if path else ImageFont.load_default(size)


@cache
def _system_faces(named: str | None) -> tuple[tuple[str, int], ...]:
    """Faces to try, best first; only the ``named`` file where there is one."""
    if named:
        try:
            ImageFont.truetype(named, _PROBE_SIZE)
        except OSError as error:
            raise PamKitError(
                f"{FONT_VARIABLE}={named} cannot be used as a font ({error}); name a .ttf, .otf or .ttc file"
            ) from error
        return ((named, 0),)
    chinese = [face for face in _CJK_FONTS if Path(face[0]).is_file()] or _fontconfig_faces()
    return (*chinese, *(face for face in _LATIN_FONTS if Path(face[0]).is_file()))


def _fontconfig_faces() -> list[tuple[str, int]]:
    """The font that fontconfig offers for Chinese, which may still lack it; none where fontconfig is not installed."""
    if not shutil.which("fc-match"):
        return []
    command = ["fc-match", "--format", "%{index} %{file}", "sans:lang=zh-cn"]
    index, _, path = subprocess.run(command, capture_output=True, text=True).stdout.partition(" ")
    # The upper half of the index counts the named variants of a variable font; files are read by the lower.
    return [(path, int(index) & 0xFFFF)] if path.endswith((".ttf", ".otf", ".ttc", ".otc")) else []


@cache
def _warn_once(chinese: bool) -> None:
    what = "Chinese characters" if chinese else "some of the characters in a text"
    warnings.warn(f"no font with {what} was found, so they are not drawn; {REMEDY}", stacklevel=2)
