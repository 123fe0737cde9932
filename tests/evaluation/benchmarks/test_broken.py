"""Entries that cannot be used are named, counted and left out; they cost nothing but themselves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pam_kit.errors import PamKitError
from pam_kit.evaluation.benchmarks.registry import BENCHMARKS


def change(path: Path, spoil: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    spoil(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def change_line(path: Path, number: int, spoil: Callable[[dict], None]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    entry = json.loads(lines[number])
    spoil(entry)
    lines[number] = json.dumps(entry)
    path.write_text("\n".join(lines), encoding="utf-8")


def setter(*way: Any, to: Any) -> Callable[[Any], None]:
    """Sets what lies at the end of ``way``."""

    def spoil(content: Any) -> None:
        for step in way[:-1]:
            content = content[step]
        content[way[-1]] = to

    return spoil


NO_MASK = {"size": [96, 96], "counts": "0"}
EMPTY_MASK = {"size": [96, 96], "counts": [96 * 96]}
ELSEWHERE = [200, 10, 5, 5]
# Benchmark, variant, file, what is done to it, place and reason that are told.
CASES = [
    ("lvis", "osprey", "lvis_val_1k_category.json", setter(0, "annotations", 1, "segmentation", to=NO_MASK),
     "lvis_val_1k_category.json: picture 1, region 2", "runs"),
    ("lvis", "osprey", "lvis_val_1k_category.json", setter(0, "annotations", 1, "segmentation", to=EMPTY_MASK),
     "picture 1, region 2", "the mask is empty"),
    ("lvis", "osprey", "lvis_val_1k_category.json", setter(2, "categories", 0, to=7),
     "picture 3, region 1", "must be a text"),
    ("lvis", "draw_and_understand", "LVIS_box.json", setter(0, "bbox", 2, to=ELSEWHERE),
     "LVIS_box.json: question 1, region 3", "has no part in a picture of 96x96"),
    ("paco", "draw_and_understand_points", "PACO_point.json", setter(1, "points", 0, to=[5, 97]),
     "PACO_point.json: question 2, region 1", "outside"),
    ("coco_text", "val", "cocotext.v2.json", setter("anns", "100", "bbox", to=[1, 2, 0, 3]),
     "cocotext.v2.json: annotation 100", "is empty"),
    ("coco_text", "val", "cocotext.v2.json", setter("anns", "101", "image_id", to=99),
     "annotation 101", "'99' is missing"),
    ("vg", "glamm", "test_caption.json", setter("annotations", 3, "image_id", to=99),
     "test_caption.json: annotation 4", "picture 99"),
    ("vg", "glamm", "test_caption.json", setter("annotations", 3, "id", to=1),
     "annotation 1", "a second region with the id 1"),
    ("vg", "videorefer", "vg_val_5000.json", setter(0, "boxes", to=[]), "region 1", "one box, not 0"),
    ("refcocog", "osprey", "finetune_refcocog_val_with_mask.json", setter("images", 0, "caption", to=" "),
     "annotation 1001", "'caption' is empty"),
    ("refcocog", "draw_and_understand", "RefCOCOg_brief_caption.json", setter(1, "image_name", to="gone.jpg"),
     "question 2", "gone.jpg is not in"),
    ("refcocog", "videorefer", "refcocog_val.json", setter(0, "image", to="../secret.jpg"),
     "picture 1, region 1", "not a name below"),
    ("ferret", "osprey", "box_refer_caption.json", setter(1, "annotation", "bbox", to=[1, 2, 3]),
     "question 2", "4 finite numbers"),
    ("mdvp", "box", "web_QA/web_QA_box.json", setter(0, "image_name", to="gone.jpg"),
     "web_QA_box.json: question 1", "gone.jpg is not in"),
    ("hc_stvg", "val_v2", "val_v2.json", setter("1_drawn.mp4", "st_frame", to=17), "val_v2.json: 1_drawn.mp4", "of 18"),
    ("hc_stvg", "videorefer", "hc_stvg_val.json", setter(0, "mask", to=[]), "video 1", "must be an object"),
    ("videorefer_d", "single", "VideoRefer-Bench-D.json", setter(0, "frame_idx", to="1"),
     "entry 1", "no mask of frame 1"),
    ("videorefer_d", "multi", "VideoRefer-Bench-D.json", setter(1, "annotation", to=[{}, {}]), "entry 2", "not of 2"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[4]}-{case[5]}")
def test_a_broken_entry_is_named_and_left_out(copy_of, case):
    name, variant, file, spoil, place, reason = case
    root, benchmark = copy_of(name), BENCHMARKS[name]
    kind = next(v.prompt_types[0] for v in benchmark.variants if v.name == variant)
    whole = benchmark.records(root, kind, variant)
    change(root / file, spoil)
    found = benchmark.records(root, kind, variant)
    told = str(found.broken[0])
    assert place in told and reason in told
    assert len(found) + len(found.broken) == len(whole) and all(record in whole for record in found)
    assert any(f"{len(found.broken)} broken regions left out: {told}" in note for note in found.notes)


LINES = [
    ("ref_l4", "videorefer", "ref-l4-val.json", 2, setter("bbox", to=None), "ref-l4-val.json:3", "4 finite numbers"),
    ("ferret", "ferret", "question.jsonl", 1, setter("question_id", to=40),
     "question.jsonl:2", "no answer for question 40"),
    ("ferret", "ferret", "question.jsonl", 1, setter("text", to="What?"), "question.jsonl:2", "no box"),
    ("elysium", "released", "test.jsonl", 0, setter("box", 0, to=[10, 20, 30, 40]), "test.jsonl:1", "between 0 and 1"),
    ("elysium", "released", "test.jsonl", 1, setter("frames", 3, to="frames/other/1.jpg"), "test.jsonl:2", "2 folders"),
    ("activitynet_stream", "released", "input_full.jsonl", 1, setter("annotations", 1, "box", to=[[1, 2, 3]]),
     "input_full.jsonl:2 event 2", "four numbers"),
    ("activitynet_stream", "released", "input_full.jsonl", 0, setter("annotations", 0, "frames", to=["9.jpg"]),
     "input_full.jsonl:1 event 1", "9.jpg is not in"),
]  # fmt: skip


@pytest.mark.parametrize("case", LINES, ids=lambda case: f"{case[0]}-{case[5]}-{case[6]}")
def test_a_broken_line_is_named_and_left_out(copy_of, case):
    name, variant, file, line, spoil, place, reason = case
    root, benchmark = copy_of(name), BENCHMARKS[name]
    whole = benchmark.records(root, "box", variant)
    change_line(root / file, line, spoil)
    found = benchmark.records(root, "box", variant)
    (told,) = map(str, found.broken)
    assert place in told and reason in told and len(found) == len(whole) - 1


def test_what_is_no_json_is_named_by_its_line(copy_of):
    root = copy_of("elysium")
    with open(root / "test.jsonl", "a", encoding="utf-8") as file:
        file.write("{half\n[]\n\n")
    found = BENCHMARKS["elysium"].records(root)
    assert [one.source for one in found.broken] == ["test.jsonl:3", "test.jsonl:4"] and len(found) == 2


def test_a_word_of_another_form_is_named(copy_of):
    root = copy_of("total_text")
    path = root / "Groundtruth" / "Polygon" / "Test" / "poly_gt_img2.txt"
    path.write_text("x: [[1 2 3]], y: [[4 5]], ornt: [u'c'], transcriptions: [u'A']\nx: [[1 2]] nonsense\n")
    found = BENCHMARKS["total_text"].records(root)
    assert [str(one) for one in found.broken] == [
        "poly_gt_img2.txt: word 1: a polygon needs x and y of three corners or more, not 3 and 2",
        "poly_gt_img2.txt: word 2: not of the published form: 'x: [[1 2]] nonsense'",
    ]


@pytest.mark.parametrize(
    ("line", "reason"), [("a,b,c\n", "not a line of numbers"), ("1,1,2,3\n", "expected frame,track,x,y")]
)
def test_a_broken_track_costs_its_sequence(copy_of, line, reason):
    root = copy_of("bensmot")
    (root / "test" / "drawing" / "seq1" / "gt" / "gt.txt").write_text(line)
    found = BENCHMARKS["bensmot"].records(root)
    assert "drawing/seq1: gt.txt:1" in str(found.broken[0]) and reason in str(found.broken[0]) and len(found) == 1


def test_captions_that_do_not_fit_the_tracks_are_told(copy_of):
    root = copy_of("bensmot")
    (root / "test" / "drawing" / "seq1" / "instance_captions.txt").write_text("woman0: a\nwoman1: b\n")
    (broken,) = BENCHMARKS["bensmot"].records(root).broken
    assert "2 captions, but 1 trajectories" in str(broken)


def test_a_file_of_another_kind_is_refused_whole(copy_of):
    root = copy_of("lvis")
    (root / "lvis_val_1k_category.json").write_text('{"images": []}')
    with pytest.raises(PamKitError, match="lvis_val_1k_category.json: expected a list of pictures"):
        BENCHMARKS["lvis"].records(root, variant="osprey")
    (root / "lvis_val_1k_category.json").write_text("[{")
    with pytest.raises(PamKitError, match="not a complete JSON file.*download it again"):
        BENCHMARKS["lvis"].records(root, variant="osprey")
    root = copy_of("ref_l4")
    (root / "ref-l4-val.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(PamKitError, match="not a complete Parquet file"):
        BENCHMARKS["ref_l4"].records(root)


def test_nothing_usable_is_an_error_and_not_an_empty_benchmark(copy_of):
    root = copy_of("vg")
    for picture in (root / "VG_100K").iterdir():
        picture.unlink()
    with pytest.raises(PamKitError, match=r"vg: no region in .* can be used: test_caption.json: annotation 1: 1.jpg"):
        BENCHMARKS["vg"].records(root)
