"""The verb that answers about regions: predict. Torch-free."""

import argparse
import json
from pathlib import Path

from pam_kit.cli.arguments import add_verb, choices
from pam_kit.cli.runs import RUN
from pam_kit.errors import PamKitError
from pam_kit.tasks import LANGUAGES, TASKS

PICTURE_FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def add_verbs(verbs) -> None:
    parser = add_verb(verbs, "predict", predict, "masks and texts of regions of a picture")
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="a picture file")
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help=RUN)
    parser.add_argument(
        "--box", action="append", default=[], metavar="X1,Y1,X2,Y2", help="a region by its box; repeatable"
    )
    parser.add_argument(
        "--point",
        action="append",
        nargs="+",
        default=[],
        metavar="X,Y[,0|1]",
        help="a region by one or more points, 1 inside it (default) and 0 outside; repeatable",
    )
    parser.add_argument(
        "--mask", action="append", default=[], metavar="PNG", help="a region by a mask picture; repeatable"
    )
    parser.add_argument("--combine", action="store_true", help="all prompts point at one region together")
    parser.add_argument(
        "--task", type=choices(TASKS), default=("recognize",), help=f"comma-separated: {','.join(TASKS)}"
    )
    parser.add_argument("--lang", type=choices(LANGUAGES), default=("en",), help="comma-separated: en,zh")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest answer (default 64)")
    parser.add_argument("--device", help="torch device; the first GPU by default, else the CPU")
    parser.add_argument("--json", action="store_true", help="print JSON: COCO RLE mask, box, scores, texts")
    parser.add_argument("--out", metavar="PNG", help="overlay picture (default <image>_regions.png)")


def predict(options: argparse.Namespace) -> None:
    """Print masks and texts of regions of a picture and write an overlay."""
    options.image = options.image or _image_behind_points(options.point)
    picture = _overlay_path(options)
    from pam_kit.inference.predictor import RegionPredictor, as_array
    from pam_kit.inference.prompt_options import prompts_from_options

    image = as_array(options.image)
    prompts = prompts_from_options(options.box, options.point, options.mask, options.combine)
    predictor = RegionPredictor.from_run(options.checkpoint, options.device)
    regions = predictor.predict(image, prompts, options.task, options.lang, options.max_new_tokens)
    from pam_kit.inference.overlay import draw_regions

    draw_regions(image, regions, languages=options.lang).save(picture)
    if options.json:
        print(json.dumps([region.to_json() for region in regions], ensure_ascii=False, indent=1))
        return
    for number, region in enumerate(regions, 1):
        box = "empty" if region.box is None else ",".join(f"{v:g}" for v in region.box)
        print(f"region {number}: {int(region.mask.sum())} px, box {box}, predicted IoU {region.iou:.2f}")
        for task, by_language in region.texts.items():
            for language, answer in by_language.items():
                print(f"  {task:<10}{language}  {answer.text}  ({answer.score:.2f})")
    print(f"overlay: {picture}")


def _image_behind_points(groups: list[list[str]]) -> str:
    """The picture of ``--point 10,20 photo.jpg``, where it stands behind the points like one of them."""
    if groups and len(groups[-1]) > 1 and Path(groups[-1][-1]).is_file():
        return groups[-1].pop()
    raise PamKitError("which picture? give a file, as in pam-kit predict photo.jpg --checkpoint RUN --point 10,20")


def _overlay_path(options: argparse.Namespace) -> Path:
    """Where the overlay goes, looked at before anything is computed."""
    path = Path(options.out or f"{Path(options.image).stem}_regions.png")
    if path.suffix.lower() not in PICTURE_FORMATS:
        raise PamKitError(f"--out {path}: the overlay is a picture; its name must end in {', '.join(PICTURE_FORMATS)}")
    if not path.parent.is_dir():
        raise PamKitError(f"--out {path}: there is no folder {path.parent}; make it first")
    return path
