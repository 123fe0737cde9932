"""The verb that finds all regions of pictures and says what they are: everything. Torch-free."""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pam_kit.atomic_files import write_json
from pam_kit.cli.arguments import add_verb, flag, positive, tell
from pam_kit.cli.parts import add_parts, own_device, own_part, run_parts
from pam_kit.cli.prompting import (
    PICTURE_FORMATS,
    add_checkpoint,
    add_questions,
    add_speed,
    is_picture,
    settle_questions,
    tell_unused,
)
from pam_kit.errors import PamKitError

if TYPE_CHECKING:
    from pam_kit.inference.everything import Everything, EverythingSettings

# In the folder of results: the pictures that several processes divide among themselves.
_NAMES = "names.json"
_EXAMPLES = """\
  pam-kit everything photo.jpg --checkpoint RUN
  pam-kit everything photo.jpg --checkpoint RUN --proposals detections.json --labels coco --task caption --lang en,zh
  pam-kit everything PHOTOS --checkpoint RUN --out found --processes 8
  torchrun --nproc-per-node 8 -m pam_kit.cli everything PHOTOS --checkpoint RUN --out found

The same call goes on where a folder was stopped. docs/everything.md says what is written, and what is read.
"""


def add_verbs(verbs) -> None:
    details = "Each picture is encoded once; masks that show the same are left out; a COCO file holds the rest."
    parser = add_verb(verbs, "everything", everything, "masks, labels and captions of all regions of pictures", details)
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument("source", metavar="IMAGE|FOLDER", help="a picture, or a folder of pictures")
    add_checkpoint(parser)
    parser.add_argument("--out", metavar="DIR", help="folder of results (default <name>_everything)")
    parser.add_argument("--json", action="store_true", help="of a picture: print the COCO file")
    parser.add_argument("--draw", action="store_true", help="of a folder: also write each picture with its regions")
    folders = parser.add_argument_group("folders")
    add_parts(folders)
    folders.add_argument("--listed", help=argparse.SUPPRESS)  # the pictures, as the call that started this one saw them
    _add_finding(parser.add_argument_group("finding"))
    add_questions(parser, "recognize,caption; with --labels caption")
    parser.add_argument("--masks-only", action="store_true", help="ask nothing")
    parser.add_argument("--labels", metavar="LIST", help="choose labels: coco, an annotation file, or a text file")
    add_speed(parser)


def _add_finding(group) -> None:
    group.add_argument("--proposals", metavar="FILE", help="COCO file or boxes of a detector (.json, .jsonl); no grid")
    group.add_argument("--min-score", type=_share, metavar="S", help="least score of a proposal (default 0)")
    group.add_argument("--points", type=positive, metavar="N", help="points of the grid along a side (default 32)")
    group.add_argument(
        "--one-mask", action="store_true", help="only the mask that the model shows at a point, not three"
    )
    group.add_argument("--crop-layers", type=int, metavar="N", help="also look at 2^i x 2^i crops (default 0 layers)")
    group.add_argument(
        "--min-iou", type=_share, metavar="S", help="least expected IoU of a mask (default 0.8; of proposals none)"
    )
    group.add_argument(
        "--min-stability", type=_share, metavar="S", help="least stability of a mask (default 0.95; of proposals none)"
    )
    group.add_argument("--overlap", type=_share, metavar="S", help="most IoU of two masks that stay (default 0.7)")
    group.add_argument(
        "--containment", type=_share, metavar="S", help="most share of a mask inside another one (default: parts stay)"
    )
    group.add_argument("--min-area", type=positive, metavar="PIXELS", help="smallest mask (default 1)")
    group.add_argument("--max-regions", type=positive, metavar="N", help="only the best of a picture (default all)")
    group.add_argument("--batch", type=positive, metavar="N", help="regions at once, which takes memory (default 32)")


def everything(options: argparse.Namespace) -> None:
    """Find and describe all regions of a picture or a folder of pictures."""
    source = Path(options.source)
    options.task = options.task or (("caption",) if options.labels else ("recognize", "caption"))
    settle_questions(options, "caption")
    if options.masks_only:
        options.task = ()
    if not source.exists():
        raise PamKitError(f"there is no picture and no folder {source}")
    if source.is_dir():
        _folder(options, source)
    elif is_picture(options.source):
        _picture(options, source)
    else:
        raise PamKitError(f"{source} is no picture; their names end in {', '.join(PICTURE_FORMATS)}. Or give a folder")


def _picture(options: argparse.Namespace, source: Path) -> None:
    names = [f"--{name}" for name in ("processes", "shard", "draw") if getattr(options, name)]
    tell_unused("everything", names, f"{source} is one picture, which is drawn")
    from tqdm import tqdm

    from pam_kit.data.pictures import read_picture
    from pam_kit.inference.everything_lines import as_coco
    from pam_kit.inference.everything_picture import MOST_DRAWN, draw_everything
    from pam_kit.inference.everything_run import picture_lines, write_coco
    from pam_kit.inference.proposal_files import ProposalFile

    settings, labels = _settings(options), _labels(options)
    image = read_picture(source, str(source))
    proposals, notes = None, list[str]()
    if options.proposals:
        size = (image.shape[1], image.shape[0])
        proposals, notes = ProposalFile(options.proposals).of(str(source), *size, alone=True)
    out = _out(options, source)
    found = _finder(options, settings, labels, options.device).find(image, proposals, partial(tqdm, disable=None))
    lines = picture_lines(source.name, found, notes)
    content = as_coco([lines], _categories(options, labels), {"made_with": _made_with(options, settings, labels)})
    write_coco(out / "regions.json", content)
    draw_everything(image, found.regions, options.lang).save(out / "regions.png")
    for note in lines.facts.get("notes", ()):
        _say(note)
    if not found.regions:
        _say(
            f"no region is left of {found.proposals} proposals; lower --min-iou or --min-stability, or see --proposals"
        )
    if options.json:
        print(json.dumps(content, ensure_ascii=False, indent=1))
        return
    drawn = f", the best {MOST_DRAWN} drawn" if len(found.regions) > MOST_DRAWN else ""
    print(f"{len(found.regions)} regions of {found.proposals} proposals{drawn}: {out}/regions.json, {out}/regions.png")


def _folder(options: argparse.Namespace, source: Path) -> None:
    tell_unused("everything", ["--json"] if options.json else [], f"{source} is a folder, whose regions go into a file")
    from tqdm import tqdm

    from pam_kit.inference.everything_run import EverythingRun
    from pam_kit.inference.proposal_files import ProposalFile

    settings, labels, shard = _settings(options), _labels(options), own_part(options)
    categories, out = _categories(options, labels), _out(options, source)
    names = json.loads(Path(options.listed).read_text(encoding="utf-8")) if options.listed else _names(source, out)
    proposals = ProposalFile(options.proposals) if options.proposals else None
    made_with = _made_with(options, settings, labels)
    run = EverythingRun(source, names, out, made_with, proposals, options.draw, options.lang)
    if options.processes and options.processes > 1:
        write_json(out / _NAMES, names)
        run_parts([*_call(options, out), "--listed", str(out / _NAMES)], options.processes)
    else:
        load = partial(_finder, options, settings, labels, own_device(options, shard))
        for note in run.find(load, shard, tqdm):
            _say(note)
    _finish(run, categories)


def _names(source: Path, out: Path) -> list[str]:
    """The pictures of a folder, as they are called in it, but for those that were drawn into the folder of results."""
    root, made = source.resolve(), out.resolve()
    found = (path for path in root.rglob("*") if is_picture(str(path)) and not path.is_relative_to(made))
    return sorted(path.relative_to(root).as_posix() for path in found)


def _finish(run: Any, categories: dict[str, int] | None) -> None:
    merged = run.merge(categories)
    if merged is None:
        print(f"part done; other parts of {run.folder} are not yet, and the last one to end writes regions.json")
        return
    path, pictures = merged
    broken = [picture for picture in pictures if picture.broken]
    for picture in broken:
        _say(f"left out, and tried again by the same call: {picture.broken}")
    count = sum(len(picture.regions) for picture in pictures)
    lost = f", {len(broken)} pictures failed" if broken else ""
    print(f"{count} regions in {len(pictures) - len(broken)} pictures{lost}: {path}")


def _call(options: argparse.Namespace, out: Path) -> list[str]:
    """The same call, for one of several processes."""
    call = ["everything", options.source, "--checkpoint", options.checkpoint, "--out", str(out)]
    names = ["proposals", "min_score", "points", "crop_layers", "min_iou", "min_stability", "overlap", "containment"]
    names += ["min_area", "max_regions", "batch", "labels", "max_new_tokens", "device", "precision", "steps"]
    for name in names:
        if (value := getattr(options, name)) is not None:
            call += [flag(name), str(value)]
    call += ["--lang", ",".join(options.lang)]
    call += ["--task", ",".join(options.task)] if options.task else ["--masks-only"]
    return call + ["--draw"] * options.draw + ["--one-mask"] * options.one_mask


def _settings(options: argparse.Namespace) -> "EverythingSettings":
    from pam_kit.inference.deduplication import Overlap
    from pam_kit.inference.everything import EverythingSettings
    from pam_kit.inference.proposals import GridSettings

    def given(**names: str) -> dict[str, Any]:
        values = {key: getattr(options, name) for key, name in names.items()}
        return {key: value for key, value in values.items() if value is not None}

    own = ("min_iou", "min_stability", "min_score", "min_area", "max_regions", "max_new_tokens")
    return EverythingSettings(
        grid=GridSettings(several=not options.one_mask, **given(points="points", crop_layers="crop_layers")),
        overlap=Overlap(**given(iou="overlap", containment="containment")),
        tasks=options.task,
        languages=options.lang,
        **given(**dict(zip(own, own, strict=True))),
    )


def _labels(options: argparse.Namespace) -> Any:
    """A ClosedSet, or None."""
    if not options.labels:
        return None
    from pam_kit.data.label_lists import read_labels
    from pam_kit.inference.closed_set import ClosedSet

    return ClosedSet(read_labels(options.labels, options.lang[0]), options.lang[0])


def _categories(options: argparse.Namespace, labels: Any) -> dict[str, int] | None:
    """Their numbers: those of an annotation file, else from 1 up."""
    if labels is None:
        return None
    from pam_kit.data.label_lists import label_numbers

    return label_numbers(options.labels, labels.names)


def _made_with(options: argparse.Namespace, settings: "EverythingSettings", labels: Any) -> dict[str, Any]:
    from hashlib import sha256

    from pam_kit.evaluation.provenance import describe_model

    told: dict[str, Any] = {"model": describe_model(options.checkpoint), "settings": settings.to_json()}
    if options.proposals:
        digest = sha256(Path(options.proposals).read_bytes()).hexdigest()
        told["proposals"] = {"file": options.proposals, "sha256": digest}
    if options.precision:
        told["precision"] = options.precision
    if labels is not None:
        told["labels"] = {"list": options.labels, "names": labels.names}
    return told


def _finder(
    options: argparse.Namespace, settings: "EverythingSettings", labels: Any, device: str | None
) -> "Everything":
    from pam_kit.inference.everything import Everything
    from pam_kit.inference.predictor import RegionPredictor
    from pam_kit.inference.session_settings import SessionSettings

    bounds = SessionSettings(region_batch=options.batch or 32, steps=options.steps)
    predictor = RegionPredictor.from_run(options.checkpoint, device, bounds, options.precision)
    return Everything(predictor, settings, labels)


def _out(options: argparse.Namespace, source: Path) -> Path:
    return Path(options.out or f"{source.resolve().stem}_everything")


def _share(text: str) -> float:
    """A type for numbers from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to 1")
    return value


def _say(text: str) -> None:
    tell("everything", text)
