"""`pam-kit`: one thin function per verb. Nothing heavy is imported before the verb needs it."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pam_kit import __version__
from pam_kit.errors import PamKitError
from pam_kit.tasks import LANGUAGES, TASKS

OVERRIDES = "changes to the recipe, for example decoder.num_layers=2, perceiver=none or train.max_steps=50"
PICTURE_FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; 0 when all went well, 2 for a mistake the user can mend."""
    options = _parsed(arguments)
    try:
        return options.run(options) or 0
    except PamKitError as error:
        print(f"pam-kit {options.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"pam-kit {options.verb}: stopped", file=sys.stderr)
        return 130


def fit(options: argparse.Namespace) -> None:
    """Train a recipe, then score the model on the recipe's held-out sets."""
    recipe = _recipe(options)
    from pam_kit.training.fit import fit as run_fit
    from pam_kit.training.fit import is_first_process

    folder = run_fit(recipe, Path(options.out), resume=options.resume)
    if not is_first_process():
        return
    print(f"model: {folder / 'model'}")
    if recipe.evaluate.splits and not options.no_evaluate:
        _evaluate(recipe, str(folder), folder)


def evaluate(options: argparse.Namespace) -> None:
    """Score a trained model on a recipe's held-out sets."""
    recipe = _recipe(options)
    folder = Path(options.out) if options.out else Path(options.checkpoint) / "evaluation" / recipe.name
    _evaluate(recipe, options.checkpoint, folder)


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


def plan(options: argparse.Namespace) -> None:
    """Print what a recipe would cost."""
    recipe = _recipe(options)
    from pam_kit.training.plan import plan as make_plan

    print("\n".join(make_plan(recipe, options.devices).lines))


def components(options: argparse.Namespace) -> None:
    """List the registered components with their arguments."""
    from pam_kit.registry import specs
    from pam_kit.sections import DATASET_SLOT, SLOTS

    for slot in [options.slot] if options.slot else [*SLOTS, DATASET_SLOT]:
        print(slot)
        for spec in specs(slot).values():
            if spec.preset_of:
                print(f"  {spec.name}: {spec.preset_of} with {', '.join(f'{k}={v}' for k, v in spec.preset.items())}")
                continue
            print(f"  {spec.name}: {spec.doc}")
            for parameter in spec.recipe_parameters:
                default = "required" if parameter.required else f"= {parameter.default!r}"
                print(f"      {parameter.name}: {parameter.annotation} {default}")
                if parameter.doc:
                    print(f"          {parameter.doc}")


def recipes(options: argparse.Namespace) -> None:
    """List the shipped recipes, or every key a recipe may have."""
    from pam_kit.recipe import shipped_recipes, valid_keys

    if options.keys:
        for key in valid_keys():
            default = "required" if key.default is None else f"= {key.default}"
            print(f"{key.key}: {key.type} {default}" + (f"\n    {key.doc}" if key.doc else ""))
        return
    for name, (path, description) in shipped_recipes().items():
        print(f"{name:<24}{description}\n{'':<24}{path}")


def data_check(options: argparse.Namespace) -> int:
    """Read datasets once and report what is broken in them; 1 where something is."""
    from tqdm import tqdm

    from pam_kit.data.check import check_dataset
    from pam_kit.data.choose import chosen_datasets

    broken = 0
    for name, dataset in chosen_datasets(options.dataset, options.overrides).items():
        report = check_dataset(dataset, lambda items, name=name, **shown: tqdm(items, **shown | {"desc": name}))
        print("\n".join([f"{name}:", *report.lines()]))
        broken += len(report.broken)
    return 1 if broken else 0


def _evaluate(recipe, checkpoint: str, folder: Path) -> None:
    from tqdm import tqdm

    from pam_kit.evaluation.evaluate import evaluate as run_evaluation
    from pam_kit.evaluation.evaluate import markdown
    from pam_kit.inference.predictor import RegionPredictor

    predictor = RegionPredictor.from_run(checkpoint)
    table = run_evaluation(predictor, recipe.evaluate, folder, tqdm)
    print("\n".join(markdown(table)))
    print(f"scores: {folder / 'scores.md'}; pictures: {folder / 'pictures'}")


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


def _recipe(options: argparse.Namespace):
    from pam_kit.recipe import load_recipe

    return load_recipe(options.recipe, options.overrides)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes KEY=VALUE only right behind the recipe; here they may also follow an option."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(options, "overrides") or any(word.startswith("-") or "=" not in word for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pam-kit",
        description="Train and use vision-language models that understand regions of pictures.",
        epilog="Start with: pam-kit fit pam_tiny",
    )
    parser.add_argument("--version", action="version", version=f"pam-kit {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _fit_options(_verb(verbs, "fit", fit, "train what a recipe describes, then score it on its held-out sets"))
    _evaluate_options(_verb(verbs, "evaluate", evaluate, "score a trained model on a recipe's held-out sets"))
    _predict_options(_verb(verbs, "predict", predict, "masks and texts of regions of a picture"))
    planned = _with_recipe(_verb(verbs, "plan", plan, "parameters, tokens and memory of a recipe, without running it"))
    planned.add_argument("--devices", type=int, default=1, help="devices the run is planned for (default 1)")
    listed = _verb(verbs, "components", components, "every registered component with its arguments")
    listed.add_argument("slot", nargs="?", choices=("backbone", "perceiver", "projector", "decoder", "dataset"))
    known = _verb(verbs, "recipes", recipes, "the recipes that ship with the kit")
    known.add_argument("--keys", action="store_true", help="list every key a recipe may have, instead")
    _data_options(_verb(verbs, "data", data_check, "look for broken samples"))
    return parser


def _verb(verbs, name: str, run, summary: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _with_recipe(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDES)
    return parser


def _fit_options(parser: argparse.ArgumentParser) -> None:
    _with_recipe(parser)
    parser.add_argument("--out", default="runs", help="folder of runs (default runs)")
    parser.add_argument("--resume", action="store_true", help="go on with the newest run of this name")
    parser.add_argument("--no-evaluate", action="store_true", help="stop after training")


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    _with_recipe(parser)
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help="a run folder, for example runs/pam_tiny")
    parser.add_argument("--out", help="folder of scores and pictures (default RUN/evaluation/<recipe>)")


def _predict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="a picture file")
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help="a run folder, for example runs/pam_tiny")
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
        "--task", type=_choices(TASKS), default=("recognize",), help=f"comma-separated: {','.join(TASKS)}"
    )
    parser.add_argument("--lang", type=_choices(LANGUAGES), default=("en",), help="comma-separated: en,zh")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest answer (default 64)")
    parser.add_argument("--device", help="torch device; the first GPU by default, else the CPU")
    parser.add_argument("--json", action="store_true", help="print JSON: COCO RLE mask, box, scores, texts")
    parser.add_argument("--out", metavar="PNG", help="overlay picture (default <image>_regions.png)")


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("check",))
    parser.add_argument("dataset", metavar="DATASET", help="a .jsonl file, a registered dataset, or a recipe")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the dataset's arguments, or recipe changes")


def _choices(allowed: Sequence[str]):
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(part.strip() for part in text.split(","))
        wrong = [part for part in chosen if part not in allowed]
        if wrong:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(wrong)}; choose from {', '.join(allowed)}")
        return chosen

    return parse


if __name__ == "__main__":
    sys.exit(main())
