"""What the readers find in the samples, against the drawn objects themselves."""

import numpy as np
import pytest
from PIL import Image

from pam_kit.data.masks import decode_rle
from pam_kit.evaluation.benchmarks.registry import BENCHMARKS
from pam_kit.evaluation.benchmarks.samples.scenes import films, scenes, signs
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.result import prompt_from_json

READINGS = [
    (name, variant.name, kind)
    for name, benchmark in BENCHMARKS.items()
    for variant in benchmark.variants
    for kind in variant.prompt_types
]
THINGS = [thing for scene in scenes() for thing in scene.things]
WORDS = [word for _, words in signs() for word in words]


def read(samples, name, kind="box", variant="", **options):
    return BENCHMARKS[name].records(samples[name], kind, variant, **options)


def boxes(records):
    return [record.prompt["box"] for record in records]


@pytest.mark.parametrize(("name", "variant", "kind"), READINGS)
def test_every_variant_is_read_whole(samples, name, variant, kind):
    found = read(samples, name, kind, variant)
    assert len(found) > 0 and found.broken == () and found.variant == variant
    assert f"{len(found)} regions, variant {variant}, {kind} prompts" in found.notes[0]
    assert len({record.id for record in found}) == len(found)
    for record in found:
        assert record.benchmark == name and record.question and all(record.references)
        assert list(record.prompt)[0] == kind
        assert (samples[name] / (record.image or record.video)).exists()
        # What is stored and loaded again is the same region.
        assert RegionRecord.from_json(record.to_json(), "here") == record
        if record.image:
            with Image.open(samples[name] / record.image) as picture:
                prompt_from_json(record.prompt).check(*picture.size)


@pytest.mark.parametrize("name", ["lvis", "paco", "vg", "refcocog"])
def test_boxes_are_those_of_the_objects(samples, name):
    for variant in BENCHMARKS[name].variants:
        if "box" in variant.prompt_types:
            assert boxes(read(samples, name, "box", variant.name)) == [thing.xyxy for thing in THINGS]


@pytest.mark.parametrize(("name", "variant"), [("lvis", "osprey"), ("refcocog", "osprey"), ("refcocog", "videorefer")])
def test_masks_are_those_of_the_objects(samples, name, variant):
    found = read(samples, name, "mask", variant)
    assert all((decode_rle(r.prompt["mask"]) == t.mask).all() for r, t in zip(found, THINGS, strict=True))


@pytest.mark.parametrize("name", ["lvis", "paco"])
def test_points_lie_in_the_objects(samples, name):
    found = read(samples, name, "points", "draw_and_understand_points")
    for record, thing in zip(found, THINGS, strict=True):
        ((x, y),) = record.prompt["points"]
        assert thing.mask[int(y), int(x)] and record.prompt["labels"] == [1]


def test_references_are_the_texts_of_the_objects(samples):
    assert [r.references for r in read(samples, "lvis")] == [(t.label,) for t in THINGS]
    assert read(samples, "paco")[1].references == (f"{THINGS[1].label}:edge",)
    assert [r.references for r in read(samples, "vg")] == [(t.caption,) for t in THINGS]
    for variant in ("osprey", "draw_and_understand", "videorefer"):
        assert [r.references for r in read(samples, "refcocog", "box", variant)] == [(t.caption,) for t in THINGS]


def test_ref_l4_counts_annotations_or_boxes(samples):
    single, grouped = read(samples, "ref_l4", variant="single"), read(samples, "ref_l4", variant="grouped")
    assert len(single) == 2 * len(THINGS) and len(grouped) == len(THINGS)
    assert boxes(grouped) == [thing.xyxy for thing in THINGS] == boxes(single[::2])
    assert grouped[0].references == (single[0].references[0], single[1].references[0])
    listed = read(samples, "ref_l4", variant="videorefer")
    assert [r.references for r in listed] == [r.references for r in single]
    assert any("1 annotations on other pictures" in note for note in listed.notes)


def test_words_are_read_with_their_filters(samples):
    for variant in ("polygons", "matlab"):
        found = read(samples, "total_text", variant=variant)
        assert [r.references[0] for r in found] == [word.text for word in WORDS]
        assert boxes(found) == [[min(w.xs), min(w.ys), max(w.xs), max(w.ys)] for w in WORDS]
        assert "3 words marked 'do not care' left out" in found.notes
        assert "3 pictures; the test set has 300" in found.notes
    val, test = (read(samples, "coco_text", variant=split) for split in ("val", "test"))
    assert [r.references[0] for r in (*val, *test)] == [word.text for word in WORDS]
    assert "1 illegible words left out" in val.notes and "1 words without a transcription left out" in val.notes
    marked = read(samples, "coco_text")
    assert marked.variant == "draw_and_understand" and boxes(marked) == boxes([*val, *test])


def test_ferret_asks_about_each_box_of_a_question(samples):
    found = read(samples, "ferret")
    assert [r.id for r in found] == ["0:1", "1:1", "2:1", "2:2"]
    # Shares have three decimals.
    pointed = [scene.things[0] for scene in scenes()] + [scenes()[2].things[1]]
    assert np.allclose(boxes(found), [thing.xyxy for thing in pointed], atol=0.05)
    assert [r.question for r in found[2:]] == [
        "How does this subject lie to the other marked object?",
        "How does the other marked object lie to this subject?",
    ]
    first, second = found[2:]
    assert first.group == second.group and [r.meta["mark"] for r in (first, second)] == [1, 2]
    assert "[" in first.meta["judge_question"] and first.meta["context"].startswith("Objects:")
    assert first.meta["reference_answer"] == first.references[0]
    assert [r.question for r in read(samples, "ferret", variant="osprey")] == [
        "What is this subject and what lies around it?"
    ] * 3


def test_mdvp_keeps_the_marks_of_a_question_together(samples):
    for kind in ("box", "points"):
        found = read(samples, "mdvp", kind)
        assert {r.meta["domain"] for r in found} == {
            "natural", "ocr_doc", "ocr_spotting", "android", "web", "multipanel",
        }  # fmt: skip
        assert len({r.meta["file"] for r in found}) == 15
        question = [r for r in found if r.group == found[0].group]
        assert [r.meta["mark"] for r in question] == [1, 2, 3]
        assert [r.references[0] for r in question] == [t.caption for t in scenes()[0].things]
        assert question[0].meta["reference_answer"].count(">: ") == 3
    asked = {r.meta["file"]: r.question for r in read(samples, "mdvp")}
    assert asked["natural_brief_caption_box"].startswith("Provide a concise caption")
    assert asked["web_QA_box"] == "What about each marked region?"


def first_boxes():
    return [[x, y, x + w, y + h] for x, y, w, h in (film.xywh(0) for film in films())]


@pytest.mark.parametrize(("name", "variant"), [("elysium", "released"), ("bensmot", "folders"), ("bensmot", "merged")])
def test_tracks_are_pointed_at_in_their_first_frame(samples, name, variant):
    found = read(samples, name, variant=variant)
    assert np.allclose(boxes(found), first_boxes(), atol=1e-9)
    for record, film in zip(found, films(), strict=True):
        assert record.frame_index == 0 and len(record.frames) == 16 < len(film.frames)
        assert record.frames[0] == sorted(p.name for p in (samples[name] / record.video).iterdir())[0]
        assert film.events[0][2] in record.references[0] and "woman" not in record.references[0]
    assert len(read(samples, name, variant=variant, num_frames=4)[0].frames) == 4


def test_hc_stvg_shows_the_frames_that_have_boxes(samples):
    for variant in ("val_v2", "val_v1"):
        for record, film in zip(read(samples, "hc_stvg", variant=variant), films(), strict=True):
            first, last, caption = film.events[1]
            assert record.frames == tuple(range(first, last + 1)) and record.references == (caption,)
            x, y, width, height = film.xywh(first)
            assert record.prompt["box"] == [x, y, x + width, y + height]
    for record, film in zip(read(samples, "hc_stvg", "mask", "videorefer"), films(), strict=True):
        assert record.frames == () and (decode_rle(record.prompt["mask"]) == film.masks[record.frame_index]).all()


def test_hc_stvg_reads_folders_of_frames(samples, copy_of):
    root = copy_of("hc_stvg")
    film = films()[0]
    (root / "video" / "1_drawn.mp4").unlink()
    for number, frame in enumerate(film.frames, 1):
        path = root / "video" / "1_drawn" / f"{number:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(frame).save(path)
    record = BENCHMARKS["hc_stvg"].records(root)[0]
    first, last, _ = film.events[1]
    assert record.video == "video/1_drawn"
    assert record.frames == tuple(f"{number + 1:06d}.jpg" for number in range(first, last + 1))


def test_videorefer_d_gives_one_mask_or_all(samples):
    for record, film in zip(read(samples, "videorefer_d", "mask", "single"), films(), strict=True):
        assert record.frames == () and record.meta == {"mode": "single"}
        assert (decode_rle(record.prompt["mask"]) == film.masks[record.frame_index]).all()
    for record, film in zip(read(samples, "videorefer_d", "mask", "multi", num_frames=4), films(), strict=True):
        assert len(record.frames) == 4 and list(record.frames) == sorted(record.frames)
        assert record.meta["prompts"][str(record.frame_index)] == record.prompt
        for place, frame in enumerate(record.frames):
            assert (decode_rle(record.meta["prompts"][str(place)]["mask"]) == film.masks[frame]).all()


def test_streams_have_their_events_in_order_and_boxes_of_both_conventions(samples):
    found = read(samples, "activitynet_stream")
    conventions = set()
    for film, events in zip(films(), (found[:3], found[3:]), strict=True):
        assert [r.meta["event"] for r in events] == [0, 1, 2] and len({r.group for r in events}) == 1
        for record, (first, last, text) in zip(events, film.events, strict=True):
            x, y, width, height = film.xywh(first)
            assert record.prompt["box"] == [x, y, x + width, y + height]
            assert record.references == (text,) and len(record.frames) == last - first + 1
            conventions.add(record.meta["box_convention"])
    assert BENCHMARKS["activitynet_stream"].streamed
    counts = [note for note in found.notes if "boxes read as" in note]
    assert sum(int(note.split()[0]) for note in counts) == 6 and len(counts) == len(conventions)
