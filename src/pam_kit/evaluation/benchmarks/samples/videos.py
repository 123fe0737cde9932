"""Samples of the benchmarks of videos: Elysium, BenSMOT, HC-STVG, VideoRefer-Bench-D, ActivityNet streams."""

from pathlib import Path
from typing import Any

from pam_kit.data.masks import encode_rle
from pam_kit.data.video.writing import VideoWriter
from pam_kit.evaluation.benchmarks.samples.scenes import SIDE, Film, films, write_json, write_lines, write_picture

FRAME_RATE = 4.0


def write_elysium(root: Path) -> None:
    """A line a video, boxes from 0 to 1."""
    lines = []
    for index, film in enumerate(films(), 1):
        folder = f"frames/{index:06d}"
        names = _write_frames(root / folder, film, "{:06d}.jpg")
        boxes = []
        for frame in range(len(names)):
            x, y, width, height = film.xywh(frame)
            boxes.append([x / SIDE, y / SIDE, (x + width) / SIDE, (y + height) / SIDE])
        lines.append(
            {
                "source": "drawn",
                "id": index,
                "vid": f"{index:06d}",
                "metadata": {},
                "frames": [f"{folder}/{name}" for name in names],
                "object_class": film.label,
                "box": boxes,
                "object_description": f"the {film.label} that {_tail(film.events[0][2])}",
                "frame_size": [SIDE, SIDE],
            }
        )
    write_lines(root / "test.jsonl", lines)


def write_bensmot(root: Path) -> None:
    """Folders of sequences, and the file that holds the captions of all."""
    merged = {}
    for index, film in enumerate(films(), 1):
        sequence = root / "test" / "drawing" / f"seq{index}"
        _write_frames(sequence / "imgs", film, "{:06d}.jpg", first=1)
        rows = []
        for number in range(len(film.frames)):
            box = ",".join(f"{value:g}" for value in film.xywh(number))
            rows.append(f"{number + 1},1,{box},1,1,1\n")
        (sequence / "gt").mkdir(parents=True, exist_ok=True)
        (sequence / "gt" / "gt.txt").write_text("".join(rows), encoding="utf-8")
        caption = film.events[0][2]
        (sequence / "instance_captions.txt").write_text(f"woman0: {caption}\n", encoding="utf-8")
        (sequence / "video_caption.txt").write_text(f"A drawing in which {caption}\n", encoding="utf-8")
        merged[f"drawing/seq{index}"] = {"1": caption}
    write_json(root / "instance_caption.json", merged)


def write_hc_stvg(root: Path) -> None:
    """Videos with the boxes of the second event, in both versions' form, and VideoRefer's list."""
    boxed: dict[str, Any] = {}
    masked = []
    for index, film in enumerate(films(), 1):
        name = f"{index}_drawn.mp4"
        _write_video(root / "video" / name, film)
        first, last, caption = film.events[1]
        boxed[name] = {
            "bbox": [film.xywh(frame) for frame in range(first, last + 1)],
            "st_time": first / FRAME_RATE,
            "ed_time": (last + 1) / FRAME_RATE,
            "st_frame": first + 1,
            "img_num": len(film.frames),
            "caption": caption,
            "width": SIDE,
            "height": SIDE,
        }
        seen = _seen(film, first)
        masked.append({"video": name, "frame_idx": seen, "mask": encode_rle(film.masks[seen]), "caption": caption})
    newer = {name: {**entry, "caption": "-", "English": entry["caption"]} for name, entry in boxed.items()}
    write_json(root / "val_v2.json", newer)
    write_json(root / "val_v1.json", boxed)
    write_json(root / "hc_stvg_val.json", masked)


def write_videorefer_d(root: Path) -> None:
    """Videos with a mask in every second frame that shows the object."""
    entries = []
    for index, film in enumerate(films()):
        name = f"drawn{index}_0:00:00.000_0:00:04.500.mp4"
        _write_video(root / "Panda-70M-part" / name, film)
        shown = [frame for frame in range(0, len(film.frames), 2) if film.masks[frame].any()]
        masks = {str(frame): {"segmentation": encode_rle(film.masks[frame])} for frame in shown}
        caption = " Then ".join(f"{text}." for _, _, text in film.events)
        entries.append(
            {
                "id": index,
                "video": name,
                "caption": caption,
                "frame_idx": str(shown[len(shown) // 2]),
                "annotation": [masks],
            }
        )
    write_json(root / "VideoRefer-Bench-D.json", entries)


def write_activitynet_stream(root: Path) -> None:
    """Events with boxes of both conventions; all texts behind the first begin with a space, as most published do."""
    lines = []
    for index, film in enumerate(films(), 1):
        video = f"V_drawn{index}"
        names = _write_frames(root / "frames" / video, film, "{:05d}.jpg")
        events = []
        for number, (first, last, text) in enumerate(film.events):
            x, y, width, height = film.xywh(first)
            # As corners where that cannot be mistaken for sizes.
            corners = x + x + width > SIDE + 2 or y + y + height > SIDE + 2
            box = [x, y, x + width, y + height] if number % 2 and corners else [x, y, width, height]
            events.append(
                {
                    "event_id": number + 1,
                    "frames": names[first : last + 1],
                    "gt": " " * bool(number) + text,
                    "box": [box],
                }
            )
        lines.append({"type": "video", "image_root": f"/somewhere/else/frames/{video}", "annotations": events})
    write_lines(root / "input_full.jsonl", lines)


def _write_frames(folder: Path, film: Film, pattern: str, first: int = 0) -> list[str]:
    names = [pattern.format(number) for number in range(first, first + len(film.frames))]
    for name, frame in zip(names, film.frames, strict=True):
        write_picture(folder / name, frame)
    return names


def _write_video(path: Path, film: Film) -> None:
    with VideoWriter(path, FRAME_RATE, (SIDE, SIDE)) as writer:
        for frame in film.frames:
            writer.write(frame)


def _seen(film: Film, frame: int) -> int:
    """The frame, or the last before it in which the object is in sight."""
    return next(number for number in range(frame, -1, -1) if film.masks[number].any())


def _tail(caption: str) -> str:
    return caption.rstrip(".")
