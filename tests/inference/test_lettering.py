import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFont

from pam_kit.errors import PamKitError
from pam_kit.inference import lettering
from pam_kit.inference.lettering import NO_FONT_NOTE, legible, wrapped

FONT = ImageFont.load_default(14)
CHINESE = "一个红色的杯子。"


@pytest.fixture
def fresh(monkeypatch):
    """No font remembered, none named."""
    monkeypatch.delenv(lettering.FONT_VARIABLE, raising=False)
    for function in (lettering._system_faces, lettering._warn_once):
        function.cache_clear()
    yield monkeypatch
    for function in (lettering._system_faces, lettering._warn_once):
        function.cache_clear()


@pytest.fixture
def no_fonts(fresh):
    """A computer without any font file."""
    fresh.setattr(lettering, "_CJK_FONTS", ())
    fresh.setattr(lettering, "_LATIN_FONTS", ())
    fresh.setattr(shutil, "which", lambda name: None)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text(alphabet="ab wide,. \n“杯子，。红", max_size=60), st.integers(20, 200))
def test_lines_fit_and_lose_no_character(text, width):
    lines = wrapped(text, FONT, width)
    assert lines
    for line in lines:
        assert FONT.getlength(line) <= width or len(line) == 1
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_words_are_kept_whole_where_they_fit():
    text = "a translucent cup on a wooden table"
    width = FONT.getlength("translucent cup")
    lines = wrapped(text, FONT, width)
    assert " ".join(lines) == text and len(lines) > 2
    assert lines[0] == "a translucent"


def test_paragraphs_start_a_line_and_an_empty_text_is_one_empty_line():
    assert wrapped("one\n\n two", FONT, 500) == ["one", "", "two"]
    assert wrapped("", FONT, 500) == [""]


def test_a_chinese_line_does_not_start_with_closing_punctuation():
    for width in range(30, 120, 5):
        lines = wrapped("红色的杯子，蓝色的盘子。" * 3, FONT, width)
        assert not any(line[:1] in "，。" for line in lines)


def test_plain_english_needs_no_font_file(no_fonts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text, font = legible("A cup, 3 cm high; “red”.", 14)
    assert text == "A cup, 3 cm high; “red”." and font.size == 14


def test_without_a_chinese_font_the_remedy_is_named_once_and_a_note_is_drawn(no_fonts):
    with pytest.warns(UserWarning, match=r"fonts-noto-cjk.*PAM_KIT_FONT"):
        text, _ = legible(CHINESE, 14)
    assert text == NO_FONT_NOTE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert legible("盘子", 14)[0] == NO_FONT_NOTE
        assert legible(NO_FONT_NOTE, 14)[0] == NO_FONT_NOTE


def test_a_missing_accent_is_warned_about_but_the_text_is_drawn(no_fonts):
    with pytest.warns(UserWarning, match="characters"):
        assert legible("café", 14)[0] == "café"


def test_a_named_font_that_is_no_font_is_an_error(fresh, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    for path in (tmp_path / "broken.ttf", tmp_path / "absent.ttf"):
        fresh.setenv(lettering.FONT_VARIABLE, str(path))
        with pytest.raises(PamKitError, match=f"PAM_KIT_FONT={path}"):
            legible(CHINESE, 14)


def test_a_named_font_is_the_only_one_tried(fresh, tmp_path):
    (tmp_path / "latin.ttf").write_bytes(FONT.font_bytes)
    fresh.setenv(lettering.FONT_VARIABLE, str(tmp_path / "latin.ttf"))
    with pytest.warns(UserWarning, match="Chinese"):
        assert legible(CHINESE, 14)[0] == NO_FONT_NOTE


def chinese_font_file():
    known = [path for path, _ in lettering._CJK_FONTS if Path(path).is_file()]
    return known[0] if known else None


@pytest.mark.skipif(chinese_font_file() is None, reason="no font with Chinese characters here: fonts-noto-cjk")
@pytest.mark.parametrize("way", ["named", "known path", "fontconfig"])
def test_chinese_is_drawn_with_a_font_that_has_it(fresh, way):
    if way == "named":
        fresh.setenv(lettering.FONT_VARIABLE, chinese_font_file())
    if way == "fontconfig":
        if not shutil.which("fc-match") or not subprocess.check_output(["fc-list", ":lang=zh-cn"]):
            pytest.skip("fontconfig knows of no font with Chinese characters")
        fresh.setattr(lettering, "_CJK_FONTS", ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text, font = legible(CHINESE, 14)
    assert text == CHINESE
    assert len({bytes(font.getmask(character)) for character in "杯子红色"}) == 4
