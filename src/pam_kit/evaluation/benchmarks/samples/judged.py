"""Samples of the benchmarks that a judge rates by pictures: Ferret-Bench and MDVP-Bench."""

from pathlib import Path
from typing import Any

from pam_kit.data.masks import encode_rle
from pam_kit.evaluation.benchmarks.mdvp import DOMAIN_TASKS
from pam_kit.evaluation.benchmarks.samples.scenes import SIDE, Thing, scenes, write_json, write_lines, write_picture
from pam_kit.geometry import innermost_point


def write_ferret(root: Path) -> None:
    """Ferret's three files, the last question with two boxes, and Osprey's questions."""
    files: dict[str, list[dict[str, Any]]] = {"question": [], "answer": [], "context": []}
    osprey = []
    for index, scene in enumerate(scenes()):
        name, things = f"{index + 1:012d}.jpg", scene.things
        write_picture(root / "val2017" / name, scene.image)
        two = index == len(scenes()) - 1
        shown = f"What is the object {_share(things[0])} and what lies around it?"
        if two:
            shown = f"How does the object {_share(things[0])} lie to the object {_share(things[1])}?"
        context = "\n".join(f"Object {number} : {one.label} at {_share(one)}." for number, one in enumerate(things))
        captions = "\n".join([f"A drawing of {len(things)} things."] * 5)
        texts = {
            "question": shown,
            "answer": f"It is {things[0].description}.",
            "context": f"Objects:\n{context}\n\nRelationships:\n\nRegion Description:\n\nGlobal Caption:\n{captions}",
        }
        for kind, text in texts.items():
            files[kind].append({"question_id": index, "image": name, "category": "refer_desc", "text": text})
        annotation = {"bbox": things[0].xywh, "segmentation": encode_rle(things[0].mask)}
        osprey.append(
            {
                "question_id": index,
                "image": name,
                "category": "description",
                "text": "What is the object <region> and what lies around it?",
                "annotation": annotation,
            }
        )
    for kind, lines in files.items():
        write_lines(root / f"{kind}.jsonl", lines)
    write_json(root / "box_refer_caption.json", osprey)


def write_mdvp(root: Path) -> None:
    """All thirty files, a question each; the first picture has all its objects marked, the others one."""
    for index, scene in enumerate(scenes(), 1):
        write_picture(root / "images" / f"scene_{index}.jpg", scene.image)
    names = [f"{domain}_{task}" for domain, tasks in DOMAIN_TASKS.items() for task in tasks]
    for order, name in enumerate(names):
        index = order % len(scenes())
        things = scenes()[index].things if index == 0 else scenes()[index].things[:1]
        for kind in ("box", "point"):
            mark = "Region" if kind == "box" else "Mark"
            answers = [f"<{mark} {number}>: {_answer(name, thing)}\n" for number, thing in enumerate(things, 1)]
            marks: list[list[float]] = [
                thing.xywh if kind == "box" else list(innermost_point(thing.mask)) for thing in things
            ]
            entry = {
                "image_name": f"scene_{index + 1}.jpg",
                "question": "What about each marked region?",
                "question_id": order + 1,
                "gt_answers": "".join(answers),
                "bbox" if kind == "box" else "points": marks,
            }
            write_json(root / name / f"{name}_{kind}.json", [entry])


def _answer(name: str, thing: Thing) -> str:
    return thing.caption if name.endswith("brief_caption") else thing.description


def _share(thing: Thing) -> str:
    """The box in shares of the picture's sides, as it stands in a question."""
    return "[" + ", ".join(f"{value / SIDE:.3f}" for value in thing.xyxy) + "]"
