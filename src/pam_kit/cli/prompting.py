"""Options by which regions are pointed at and asked about, which several verbs take. Torch-free."""

import argparse
import warnings
from pathlib import Path

from pam_kit.cli.arguments import choices, positive, tell
from pam_kit.cli.runs import RUN
from pam_kit.errors import PamKitError
from pam_kit.tasks import LANGUAGES, TASKS

PICTURE_FORMATS = (".png", ".jpg", ".jpeg", ".webp")
# Other pictures that can be read, though an overlay is not written so.
_MORE_PICTURES = (".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".avif")
VIDEO_FORMATS = (".mp4",)
# As in contracts.slots, whose module would load torch.
PRECISIONS = ("float32", "bfloat16", "float16", "int8", "nf4")
STEPS = ("growing", "fixed", "compiled")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help=RUN)
    parser.add_argument("--device", help="torch device; the first GPU by default, else the CPU")


def add_prompts(parser: argparse.ArgumentParser, videos: bool = False, only: bool = False) -> None:
    """``--box``, ``--point`` and ``--mask``; with ``videos`` also the frame they point into, ``only`` of videos."""
    where = "; @12 or #2 behind it: see --frame" if videos else ""
    parser.add_argument(
        "--box", action="append", default=[], metavar="X1,Y1,X2,Y2", help=f"a region by its box; repeatable{where}"
    )
    parser.add_argument(
        "--point",
        action="append",
        nargs="+",
        default=[],
        metavar="X,Y[,0|1]",
        help=f"a region by one or more points, 1 inside it (default) and 0 outside; repeatable{where}",
    )
    parser.add_argument(
        "--mask", action="append", default=[], metavar="PNG", help=f"a region by a mask picture; repeatable{where}"
    )
    parser.add_argument("--combine", action="store_true", help="all prompts point at one region together")
    if videos:
        what = "" if only else "of a video: "
        parser.add_argument(
            "--frame",
            type=whole,
            metavar="N",
            help=f"{what}the frame that prompts point into (default the first); a prompt says it by itself as in "
            "--box 5,9,60,80@12#2: in frame 12, about region 2",
        )


def add_speed(parser: argparse.ArgumentParser) -> None:
    """``--precision`` and ``--steps``: how the decoder computes."""
    parser.add_argument("--precision", choices=PRECISIONS, help="of the decoder (default as it was trained)")
    parser.add_argument(
        "--steps",
        choices=STEPS,
        default=STEPS[0],
        help="keys and values that grow with the answers (default), in buffers of fixed size, or that compiled",
    )


def add_questions(parser: argparse.ArgumentParser, default: str = "caption") -> None:
    """``--task``, ``--lang`` and ``--max-new-tokens``; None where they are left out, see ``settle_questions``.

    ``default``: what help says of the task that is asked then.
    """
    tasks = f"comma-separated: {','.join(TASKS)} (default {default})"
    parser.add_argument("--task", type=choices(TASKS), help=tasks)
    parser.add_argument("--lang", type=choices(LANGUAGES), help="comma-separated: en,zh (default en)")
    parser.add_argument("--max-new-tokens", type=positive, metavar="N", help="longest answer (default 64)")


def settle_questions(options: argparse.Namespace, task: str) -> None:
    """Fill in what ``add_questions``'s options left open; ``task``: what is asked by default."""
    options.task = options.task or (task,)
    options.lang = options.lang or ("en",)
    options.max_new_tokens = options.max_new_tokens or 64


def tell_unused(verb: str, names: list[str], why: str) -> None:
    """Say on standard error which options have no effect, if any."""
    if names:
        tell(verb, f"{', '.join(names)}: no effect, since {why}")


def add_frame_source(parser: argparse.ArgumentParser) -> None:
    """What raw frames and pictures do not say of themselves."""
    parser.add_argument("--size", type=width_and_height, metavar="WxH", help="of raw frames (RGB24) on standard input")
    parser.add_argument("--rate", type=float, metavar="FPS", help="frames a second of pictures and raw frames")


def source_behind_points(groups: list[list[str]], call: str) -> str:
    """The source of ``--point 10,20 photo.jpg``, where it stands behind the points like one of them."""
    if groups and len(groups[-1]) > 1 and ("," not in groups[-1][-1] or Path(groups[-1][-1]).exists()):
        return groups[-1].pop()
    raise PamKitError(f"where to look? give a source, as in pam-kit {call} --checkpoint RUN --point 10,20")


def is_picture(path: str) -> bool:
    """Whether a name is that of a picture rather than of a video."""
    return Path(path).suffix.lower() in PICTURE_FORMATS + _MORE_PICTURES and not Path(path).is_dir()


def opened_video(source: str, size: tuple[int, int] | None, rate: float | None):
    """The frames that a name stands for; a ``.txt`` file lists pictures, one path a line."""
    from pam_kit.data.video import open_video

    # A verb tells of damage in its own words, at its end.
    warnings.filterwarnings("ignore", message=".* ends early, behind frame")
    if Path(source).suffix.lower() != ".txt":
        return open_video(source, size=size, frame_rate=rate)
    try:
        lines = Path(source).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PamKitError(f"{source}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise PamKitError(f"{source} is no text; a .txt file lists pictures, one path a line") from error
    paths = [Path(source).parent / line.strip() for line in lines if line.strip()]
    if not paths:
        raise PamKitError(f"{source} lists no picture; expected one path a line")
    return open_video(paths, frame_rate=rate)


def tell_damage(verb: str, damage: str | None) -> None:
    """Say on standard error where a video broke off; what was there before has been used."""
    if damage:
        tell(verb, f"{damage}; what comes before was used")


def out_path(given: str | None, default: str, formats: tuple[str, ...], what: str) -> Path:
    """Where a file goes, looked at before anything is computed."""
    path = Path(given or default)
    if path.suffix.lower() not in formats:
        raise PamKitError(f"--out {path}: {what}; its name must end in {', '.join(formats)}")
    if not path.parent.is_dir():
        raise PamKitError(f"--out {path}: there is no folder {path.parent}; make it first")
    return path


def whole(text: str) -> int:
    """A type for whole numbers from 0 up."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def width_and_height(text: str) -> tuple[int, int]:
    """A type for sizes such as 640x480."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected WIDTHxHEIGHT, for example 640x480")
    return int(width), int(height)
