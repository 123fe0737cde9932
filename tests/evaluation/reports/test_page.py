"""The web page: nothing from outside, nothing of a model's text as markup, and the cases that it shows."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pam_kit.data.masks import encode_rle
from pam_kit.evaluation.predictions.ledger import SEEN, broken
from pam_kit.evaluation.records import RegionRecord
from pam_kit.evaluation.reports.cases import extreme_cases, with_picture
from pam_kit.evaluation.reports.page import Section, page
from pam_kit.evaluation.reports.table import Row, Table

NASTY = '<script>alert("x")</script> & <img src=http://evil/a.png>'


class Tags(HTMLParser):
    """All tags with their attributes, and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def record(number: int, **facts) -> RegionRecord:
    known = {
        "question": "What?",
        "references": ("cup", "mug"),
        "prediction": f"said {number}",
        "image": f"{number}.png",
    }
    return RegionRecord(str(number), "any", **{**known, "prompt": {"box": [8.0, 8.0, 40.0, 30.0]}, **facts})


@pytest.fixture
def pictures(tmp_path):
    for number in range(4):
        Image.fromarray(np.full((48, 64, 3), 120, np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_the_page_is_whole_and_shows_texts_as_texts(pictures):
    mask = np.zeros((48, 64), dtype=bool)
    mask[10:28, 10:38] = True
    one = record(0, prediction=NASTY, meta={SEEN: {"mask": encode_rle(mask)}})
    best, worst = extreme_cases(
        [one, record(1)], {"0": {"METEOR": 0.9, "CIDEr": 4.0}, "1": {"METEOR": 0.1}}, "METEOR", 3
    )
    table = Table(
        "A set", ("METEOR",), (Row(NASTY, "here", {"METEOR": 12.0}, True),), notes=(NASTY,), warnings=(NASTY,)
    )
    shown = [[with_picture(case, pictures) for case in cases] for cases in (best, worst)]
    text = page("Title", {"model": NASTY}, [Section(table, "METEOR", "captions_ptb", *shown)])
    found = Tags(text)
    assert not found.open and not any(tag == "script" for tag, _ in found.tags)
    assert found.text.count("alert") >= 5 and "0.900" in found.text and "CIDEr 4.000" in found.text
    # Nothing is fetched: pictures are in the page, and no style or link names an address.
    sources = [value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(sources) == 2 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "url(" not in text and "@import" not in text
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2]))))
    assert drawn.shape == (315, 420, 3)
    # Tinted where the mask is, untouched far from it; the other region has no mask.
    assert np.ptp(drawn[120, 150].astype(int)) > 20 and np.ptp(drawn[300, 400].astype(int)) < 6


def test_best_and_worst_are_by_the_metric_and_never_the_same():
    records = [record(number) for number in range(9)]
    values = [0.5, 0.1, 0.9, None, 0.3, 0.8, 0.2, 0.7, 0.4]
    items = {str(number): {"SS": value} for number, value in enumerate(values)}
    best, worst = extreme_cases(records, items, "SS", 2)
    assert [case.record.id for case in best] == ["2", "5"] and [case.record.id for case in worst] == ["1", "6"]
    best, worst = extreme_cases(records[:3], items, "SS", 4)
    assert [case.record.id for case in best] == ["2", "0"] and [case.record.id for case in worst] == ["1"]


def test_among_equal_ones_other_pictures_come_first():
    records = [record(number, image=f"{number // 3}.png") for number in range(9)]
    best, _ = extreme_cases(records, {str(number): {"SS": 1.0} for number in range(9)}, "SS", 3)
    assert len({case.record.image for case in best}) == 3


def test_a_group_that_is_judged_as_a_whole_is_one_case():
    records = [record(number, group=f"g{number // 2}") for number in range(6)]
    items = {"g0": {"grade": 5.0}, "g1": {"grade": 1.0}, "g2": {"grade": None}}
    best, worst = extreme_cases(records, items, "grade", 3)
    assert [case.record.id for case in best] == ["0"] and [case.record.id for case in worst] == ["2"]


def test_a_region_without_a_picture_is_shown_with_the_reason(pictures):
    gone, bad = record(7), broken(record(1, prompt={"box": [0, 0, 999, 9]}), "box outside")
    items = {"7": {"SS": 0.0}, "1": {"SS": 0.1}}
    best, worst = extreme_cases([gone, bad], items, "SS", 1)
    shown = [with_picture(case, pictures) for case in (*best, *worst)]
    assert [case.picture for case in shown] == [None, None]
    text = page("T", {}, [Section(Table("A", (), ()), "SS", "osprey", shown[:1], shown[1:])])
    assert "box outside" in text and re.search(r"7\.png.* does not exist", text) and "<img" not in text
    assert "(nothing)" in text
