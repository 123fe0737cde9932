"""The verb that answers about regions of pictures and videos: predict. Torch-free."""

import argparse
import json
from pathlib import Path

from pam_kit.cli.arguments import add_verb, given_flags, positive, tell
from pam_kit.cli.prompting import (
    PICTURE_FORMATS,
    STEPS,
    VIDEO_FORMATS,
    add_checkpoint,
    add_prompts,
    add_questions,
    add_speed,
    is_picture,
    opened_video,
    out_path,
    settle_questions,
    source_behind_points,
    tell_damage,
    tell_unused,
)
from pam_kit.errors import PamKitError

# As in inference.frame_choice, whose module would load torch.
SAMPLERS = ("uniform", "all", "mask_change")


def add_verbs(verbs) -> None:
    details = (
        "A picture is encoded once for all its regions. Through a video (an mp4, a folder of pictures, or a .txt file "
        "that lists pictures) regions are followed both ways from where they are pointed at."
    )
    parser = add_verb(verbs, "predict", predict, "masks and texts of regions of a picture or a video", details)
    parser.add_argument("image", nargs="?", metavar="IMAGE|VIDEO", help="a picture, a video file, a folder of pictures")
    add_checkpoint(parser)
    add_prompts(parser, videos=True)
    add_questions(parser, "recognize of a picture, caption of a video")
    parser.add_argument("--frames", type=positive, metavar="N", help="frames of a video that are read (default 16)")
    parser.add_argument("--sampler", choices=SAMPLERS, help="which ones (default uniform)")
    parser.add_argument("--rate", type=float, metavar="FPS", help="frames a second of a folder of pictures")
    add_speed(parser)
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--json", action="store_true", help="print JSON: COCO RLE masks, boxes, scores, texts")
    told.add_argument(
        "--stream",
        action="store_true",
        help="of a picture: print JSON lines as things are known: masks, pieces of texts, answers, regions",
    )
    parser.add_argument(
        "--ask",
        action="append",
        default=[],
        metavar="TEXT",
        help="of a picture: a question in words of your own, in the place of --task or beside it; repeatable",
    )
    parser.add_argument(
        "--hypotheses",
        action="store_true",
        help="of a picture: also what else each prompt may mean (part, whole, group), with mask, IoU and label",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="overlay picture or annotated mp4 (default <name>_regions.png or .mp4)"
    )


def predict(options: argparse.Namespace) -> None:
    """Print masks and texts of regions and write them into a copy of the picture or video."""
    options.image = options.image or source_behind_points(options.point, "predict photo.jpg")
    if is_picture(options.image):
        _predict_picture(options)
    else:
        _predict_video(options)


def _predict_picture(options: argparse.Namespace) -> None:
    default = f"{Path(options.image).stem}_regions.png"
    picture = out_path(options.out, default, PICTURE_FORMATS, "the overlay is a picture")
    of_videos = [name for name in ("frame", "frames", "sampler", "rate") if getattr(options, name) is not None]
    tell_unused("predict", [f"--{name}" for name in of_videos], f"{options.image} is a picture, not a video")
    asked = options.task or (() if options.ask else ("recognize",))
    settle_questions(options, "recognize")
    from pam_kit.inference.predictor import RegionPredictor, as_array
    from pam_kit.inference.prompt_options import prompts_from_options
    from pam_kit.inference.session_events import RegionReady, event_json
    from pam_kit.inference.session_settings import SessionSettings

    image = as_array(options.image)
    prompts = prompts_from_options(options.box, options.point, options.mask, options.combine)
    settings = SessionSettings(steps=options.steps)
    session = RegionPredictor.from_run(options.checkpoint, options.device, settings, options.precision).open(image)
    own = {text: {options.lang[0]: text} for text in options.ask}
    events = session.stream(
        prompts, asked, options.lang, options.max_new_tokens, questions=own, hypotheses=options.hypotheses
    )
    ready = {}
    for event in events:
        if options.stream:
            print(json.dumps(event_json(event), ensure_ascii=False), flush=True)
        if isinstance(event, RegionReady):
            ready[event.region] = event.prediction
    regions = [ready[number] for number in range(len(prompts))]
    wrong = [f"region {n} of {len(regions)}: {one.error}" for n, one in enumerate(regions, 1) if one.error is not None]
    if len(wrong) < len(regions):
        from pam_kit.inference.overlay import draw_regions

        draw_regions(image, regions, languages=options.lang).save(picture)
        _print_regions(options, regions, picture)
    for note in session.notes:
        tell("predict", note)
    if wrong:
        # The others are told and drawn by now.
        raise PamKitError("\n".join(wrong))


def _print_regions(options: argparse.Namespace, regions, picture: Path) -> None:
    if options.json:
        print(json.dumps([region.to_json() for region in regions], ensure_ascii=False, indent=1))
    if options.json or options.stream:
        return
    for number, region in enumerate(regions, 1):
        if region.error is not None:
            continue
        print(
            f"region {number}: {int(region.mask.sum())} px, box {_numbers(region.box)}, predicted IoU {region.iou:.2f}"
        )
        _print_texts(region.texts)
        for one in region.hypotheses:
            chosen = ", chosen" if one.chosen else ""
            print(f"  {one.name}: {int(one.mask.sum())} px, predicted IoU {one.iou:.2f}{chosen}")
            if not one.chosen:
                _print_texts(one.texts)
    print(f"overlay: {picture}")


def _predict_video(options: argparse.Namespace) -> None:
    default = f"{Path(options.image).stem}_regions.mp4"
    annotated = out_path(options.out, default, VIDEO_FORMATS, "the annotated video is an mp4")
    if options.image == "-":
        raise PamKitError("predict goes through a video both ways, so it needs a file; pam-kit stream reads from -")
    of_pictures = given_flags(options, ("stream", "ask", "hypotheses"))
    tell_unused("predict", of_pictures, f"{options.image} is a video, not a picture")
    other_steps = [f"--steps {options.steps}"] if options.steps != STEPS[0] else []
    tell_unused("predict", other_steps, "all answers about a video are one batch, whose keys and values grow")
    settle_questions(options, "caption")
    from functools import partial

    from tqdm import tqdm

    from pam_kit.inference.annotated_video import write_annotated
    from pam_kit.inference.prompt_options import video_prompts_from_options
    from pam_kit.inference.tracker import VideoPredictor
    from pam_kit.inference.video_result import prompts_by_frame

    typed = (options.box, options.point, options.mask)
    prompts = video_prompts_from_options(*typed, options.frame or 0, options.combine)
    progress = partial(tqdm, disable=None)  # none where nobody watches
    with opened_video(options.image, None, options.rate) as video:
        # What is wrong with a prompt is said before the model is loaded.
        prompts_by_frame(prompts, video.width, video.height)
        predictor = VideoPredictor.from_run(options.checkpoint, options.device, options.precision)
        reading = (options.frames or 16, options.sampler or "uniform", options.max_new_tokens)
        found = predictor.predict(video, prompts, options.task, options.lang, *reading, progress=progress)
        write_annotated(found, video, annotated, options.lang, progress=progress)
    tell_damage("predict", found.damage)
    if options.json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=1))
        return
    for region in found.regions:
        seen = sum(frame.in_sight for frame in region.frames)
        print(f"region {region.region}: in sight in {seen} of {len(region.frames)} frames, {_changes(region)}")
        _print_texts(region.texts)
    print(f"annotated: {annotated}")


def _changes(region) -> str:
    """When a region of a video went out of sight and came back."""
    return "; ".join(f"{change.state} at {change.time:.2f} s" for change in region.transitions)


def _numbers(box) -> str:
    return "empty" if box is None else ",".join(f"{v:g}" for v in box)


def _print_texts(texts) -> None:
    for task, by_language in texts.items():
        for language, answer in by_language.items():
            print(f"  {task:<10}{language}  {answer.text}  ({answer.score:.2f})")
