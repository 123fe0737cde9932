"""Recipes: what a file and the command line say is what comes out, and every mistake is named with its place."""

import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pam_kit import registry, sections
from pam_kit.errors import RecipeError
from pam_kit.recipe import find_recipe, load_recipe, resolved_yaml, shipped_recipes, valid_keys
from pam_kit.recipe import source as recipe_source
from pam_kit.recipe.marked_yaml import Place, as_marked
from pam_kit.recipe.values import INVALID, convert, parse_annotation
from pam_kit.registry import register
from pam_kit.sections import ComponentChoice

# Line 1 is the description, so that the lines of the tests below can be counted.
TINY = """\
# A tiny run
seed: 3
model:
  backbone: {name: eye, image_size: 128}
  perceiver: tokens
  projector: {name: mlp}
  decoder:
    name: talker
    path: weights
    num_layers: 2
data:
  train: {name: dots, num_samples: 1000}
train: {learning_rate: 1e-3, max_steps: 100, trainable: [perceiver]}
evaluate:
  splits:
    held_out: {dataset: {name: dots, seed: 1}, prompts: [box, given]}
"""


class Eye:
    def __init__(self, image_size: int = 64, mean: tuple[float, float] = (0.0, 0.0), kind: Literal["a", "b"] = "a"): ...


class Tokens:
    def __init__(self, embed_dim: int, num_semantic_tokens: int = 16, tables: dict[str, float] = {"x": 1.0}): ...  # noqa: B006


class Mlp:
    def __init__(self, embed_dim: int, output_dim: int, ratio: Literal[1, 2] = 2): ...


class Talker:
    """Args:
    path: folder of the weights.
    """

    def __init__(self, path: str, num_layers: int | None = None, dropout: float = 0.0, options: Any = None): ...


class Parrot:
    def __init__(self, volume: int = 1): ...


class Dots:
    def __init__(self, num_samples: int = 10, seed: int = 0, path: str | None = None, when: Path = Path()): ...  # noqa: B008


@pytest.fixture(scope="module", autouse=True)
def zoo():
    """Small components of every slot in the place of the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "BUILT_IN_PACKAGES", ())
        patch.setattr(registry, "_live", {})
        patch.setattr(registry, "_live_classes", {})
        register("backbone", "eye")(Eye)
        register("perceiver", "tokens")(Tokens)
        register("projector", "mlp")(Mlp)
        register("decoder", "talker", presets={"talker_7b": {"path": "hub", "num_layers": 7}})(Talker)
        register("decoder", "parrot")(Parrot)
        register("dataset", "dots")(Dots)
        yield


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a recipe into an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "tiny.yaml") -> str:
        (tmp_path / name).write_text(textwrap.dedent(text), encoding="utf-8")
        return name

    return write


def problems(path: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return caught.value.problems


def test_a_recipe_is_typed(write):
    recipe = load_recipe(write(TINY))
    assert (recipe.name, recipe.seed, recipe.init_from, recipe.source, recipe.overrides) == (
        "tiny",
        3,
        None,
        "tiny.yaml",
        [],
    )
    assert recipe.model.perceiver == ComponentChoice("tokens", {})
    assert recipe.model.decoder == ComponentChoice("talker", {"path": "weights", "num_layers": 2})
    assert recipe.data.train == ComponentChoice("dots", {"num_samples": 1000})
    assert recipe.train.learning_rate == 1e-3 and recipe.train.trainable == ["perceiver"]
    split = recipe.evaluate.splits["held_out"]
    assert (split.dataset.arguments, split.prompts, split.limit) == ({"seed": 1}, ["box", "given"], None)
    untouched = sections.DataSection(recipe.data.train)
    assert recipe.data == untouched and recipe.train.loss == sections.LossWeights()


def test_values_take_the_types_that_are_asked_for(write):
    recipe = load_recipe(
        write(TINY),
        [
            "train.weight_decay=1",
            "train.gradient_clip='1e-5'",
            "train.loss.dice=2",
            "decoder.dropout=1E3",
            "train.devices=2",
        ],
    )
    train = recipe.train
    assert (train.weight_decay, train.gradient_clip, train.loss.dice, train.devices) == (1.0, 1e-5, 2.0, 2)
    assert type(train.weight_decay) is type(train.loss.dice) is float
    assert recipe.model.decoder.arguments["dropout"] == 1000.0
    recipe = load_recipe(
        "tiny.yaml", ["backbone.mean=[1, .5]", "data.train.when=2024-01-01", "decoder.options={a: [1]}"]
    )
    assert recipe.model.backbone.arguments["mean"] == (1.0, 0.5)
    assert recipe.data.train.arguments["when"] == "2024-01-01"
    assert recipe.model.decoder.arguments["options"] == {"a": [1]}


def test_overrides_apply_in_order(write):
    path = write(TINY)

    def decoder(*overrides: str) -> ComponentChoice:
        return load_recipe(path, overrides).model.decoder

    assert decoder("decoder.num_layers=3", "decoder.num_layers=4").arguments == {"path": "weights", "num_layers": 4}
    assert decoder("model.decoder=talker").arguments == {"path": "weights", "num_layers": 2}
    assert decoder("decoder=parrot") == ComponentChoice("parrot", {})
    assert decoder("decoder.name=parrot", "decoder.volume=3") == ComponentChoice("parrot", {"volume": 3})
    assert decoder("decoder={name: talker_7b, dropout: 1}") == ComponentChoice("talker_7b", {"dropout": 1.0})
    assert decoder("decoder={name: talker, dropout: 1}").arguments == {
        "path": "weights",
        "num_layers": 2,
        "dropout": 1.0,
    }
    assert decoder("decoder=talker_7b", "decoder=talker", "decoder.path=b") == ComponentChoice("talker", {"path": "b"})
    assert load_recipe(path, ["init_from=runs/a=b"]).init_from == "runs/a=b"
    assert load_recipe(path, ["name=杯子🙂", "init_from="]).name == "杯子🙂"
    assert "杯子🙂" in resolved_yaml(load_recipe(path, ["name=杯子🙂"]))


def test_tables_and_lists_are_whole_values_and_dotted_keys_single_entries(write):
    path = write(TINY)
    defaults = sections.DataSection(ComponentChoice("dots")).prompts
    assert load_recipe(path, ["data.prompts={box: 1}"]).data.prompts == {"box": 1.0}
    assert load_recipe(path, ["data.prompts.box=1"]).data.prompts == {**defaults, "box": 1.0}
    assert load_recipe(path, ["data.prompts={box: 1}", "data.prompts.mask=2"]).data.prompts == {"box": 1.0, "mask": 2.0}
    assert load_recipe(path, ["train.betas=[0.1, 0.2]"]).train.betas == [0.1, 0.2]
    assert load_recipe(path, ["perceiver.tables.y=2"]).model.perceiver.arguments["tables"] == {"x": 1.0, "y": 2.0}
    assert load_recipe(path, ["perceiver.tables={y: 2}"]).model.perceiver.arguments["tables"] == {"y": 2.0}


def test_a_child_extends_its_parents(write):
    write(TINY, "base.yaml")
    write(
        "extends: base.yaml\nname: middle\nmodel:\n  decoder: {num_layers: 9}\ntrain: {learning_rate: 1}\n",
        "middle.yaml",
    )
    path = write(
        """
        extends: middle.yaml
        model: {decoder: {dropout: 0.5}, backbone: {name: eye, kind: b}}
        data: {prompts: {mask: 1}}
        train:
        evaluate:
          splits:
            held_out: {limit: 5}
            other: {dataset: dots}
        """,
        "child.yaml",
    )
    recipe = load_recipe(path)
    assert recipe.name == "child" and recipe.seed == 3, "all is inherited but the name"
    assert recipe.model.decoder.arguments == {"path": "weights", "num_layers": 9, "dropout": 0.5}
    assert recipe.model.backbone.arguments == {"image_size": 128, "kind": "b"}
    assert recipe.data.prompts == {"mask": 1.0}
    assert (recipe.train.learning_rate, recipe.train.max_steps) == (1.0, 100)
    assert {name: split.limit for name, split in recipe.evaluate.splits.items()} == {"held_out": 5, "other": None}
    assert recipe.evaluate.splits["held_out"].prompts == ["box", "given"]
    write("extends: base.yaml\nmodel: {decoder: parrot}\nevaluate: {splits: {held_out: null}}\n", "swap.yaml")
    swapped = load_recipe("swap.yaml")
    assert swapped.model.decoder == ComponentChoice("parrot", {}) and swapped.evaluate.splits == {}


def test_a_parent_is_found_beside_its_child(write, tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    write(TINY, "deep/base.yaml")
    write("extends: base.yaml\nname: child\n", "deep/child.yaml")
    assert load_recipe(tmp_path / "deep" / "child.yaml").model.backbone.name == "eye"
    write("extends: shipped_one\n", "by_name.yaml")
    monkeypatch.setattr(recipe_source, "shipped_files", lambda: {"shipped_one": tmp_path / "deep" / "base.yaml"})
    assert load_recipe("by_name.yaml").name == "by_name"


def test_interpolation(write):
    text = TINY.replace("data:\n", "data:\n  root: /pictures\n")
    path = write(text.replace("num_samples: 1000", 'path: "${data.root}/a.jsonl", seed: "${seed}"'))
    recipe = load_recipe(path, ["evaluate.splits.again={dataset: '${data.train}', limit: '${train.max_steps}'}"])
    assert recipe.data.train.arguments == {"path": "/pictures/a.jsonl", "seed": 3}
    assert recipe.evaluate.splits["again"].dataset == recipe.data.train
    assert recipe.evaluate.splits["again"].limit == 100
    assert load_recipe(path, ["data.root=/b", "init_from=${name}"]).data.train.arguments["path"] == "/b/a.jsonl"
    assert load_recipe(path, ["init_from=${name}"]).init_from == "tiny"


@pytest.mark.parametrize(
    "value, message",
    [
        ("${oc.env:HOME}", "only ${section.key} is understood"),
        ("x/${oc.env:HOME}", "only ${section.key} is understood"),
        ("${data.${oc.env:HOME}}", "only ${section.key} is understood"),
        ("${oc.decode:'1'}", "only ${section.key} is understood"),
        ("\\${data.root}", "only ${section.key} is understood"),
        ("${", "only ${section.key} is understood"),
        ("${data.rot}", "'data.rot' not found"),
        ("${init_from}", "ecursive"),
        ("${data.root}/runs", "data.root is null here"),
        ("${data.tasks}/runs", "data.tasks is a list or a section"),
    ],
)
def test_interpolation_that_is_refused(write, monkeypatch, value, message):
    monkeypatch.setenv("HOME", "/secret")
    (problem,) = problems(write(TINY + f"init_from: {value}\n"))
    assert problem.startswith("tiny.yaml:17: init_from: ") and message in problem and "secret" not in problem


# What is added to TINY as line 17; the key and words of the problem.
ADDED = [
    ("colour: red", "colour", "unknown key; valid: name, model, data, train, evaluate, init_from, seed"),
    ("sead: 1", "sead", "unknown key; did you mean 'seed'?"),
    ("learning_rate: 1", "learning_rate", "unknown key; did you mean 'train.learning_rate'?"),
    ("data.root: x", "data.root", "nest the keys"),
    ("init_from: [a]", "init_from", "expected str | None, got ['a'] (list)"),
    ("init_from: 3", "init_from", "expected str | None, got 3 (int); put it in quotes"),
    ("name: 1e5", "name", "expected str, got 100000.0 (float); put it in quotes"),
    ("init_from: ???", "init_from", "has to be given"),
    ("yes: 1", "yes", "must be text"),
    ("1: 1", "1", "must be text"),
    ("seed: 4", "seed", "given twice; it also stands at tiny.yaml:2"),
    (
        "init_from: !!python/name:os.system ''",
        "init_from",
        "tag 'tag:yaml.org,2002:python/name:os.system' is not allowed",
    ),
    ("<<: {name: x}", "", "merge keys are not used in recipes; use extends"),
    ("init_from: &a [*a]", "init_from", "contains itself"),
    ("init_from: !!int x", "init_from", "'x' is not a YAML int"),
    ("init_from: [", "", "not valid YAML: while parsing a flow node"),
    ("init_from: \x07", "", "not valid YAML: character"),
    ("a: b: c", "", "not valid YAML: mapping values are not allowed here"),
    ("---\na: 1", "", "not valid YAML: expected a single document"),
    ("extends: tini", "extends", "there is no recipe 'tini'"),
    ("extends: tiny.yml", "extends", "there is no recipe 'tiny.yml'; did you mean 'tiny.yaml'?"),
    ("extends: tiny.yaml", "extends", "cannot extend itself: tiny.yaml -> tiny.yaml"),
    ("extends: [a]", "extends", "expected a file or a recipe's name, got ['a']"),
]
# What takes the place of a line of TINY; the line, key and words of the problem.
REPLACED = [
    (2, "seed: -1", 2, "seed", "must be from 0 to 2^32 - 1, not -1"),
    (2, "seed: true", 2, "seed", "expected int, got True (bool)"),
    (2, "seed: '3'", 2, "seed", "expected int, got '3' (str)"),
    (2, "seed: null", 2, "seed", "expected int, got null"),
    (4, "  backbone: {name: ey}", 4, "model.backbone", "unknown backbone 'ey'; did you mean 'eye'? Registered: eye"),
    (
        4,
        "  backbone: {image_size: 3}",
        4,
        "model.backbone",
        "the name of a backbone, and its arguments; registered: eye",
    ),
    (4, "  backbone: 3", 4, "model.backbone", "expected the name of a backbone"),
    (4, "  backbone: [eye]", 4, "model.backbone", "expected the name of a backbone"),
    (4, "  backbone: {name: 3}", 4, "model.backbone.name", "expected str, got 3 (int)"),
    (
        4,
        "  backbone: {name: eye, image_siz: 3}",
        4,
        "model.backbone.image_siz",
        "unknown argument of backbone 'eye'; did you mean 'image_size'?",
    ),
    (4, "  backbone: {name: eye, kind: c}", 4, "model.backbone.kind", "expected 'a' | 'b', got 'c' (str)"),
    (4, "  backbone: {name: eye, image_size: 1.5}", 4, "model.backbone.image_size", "expected int, got 1.5 (float)"),
    (4, "  backbone: {name: eye, mean: [1]}", 4, "model.backbone.mean", "expected tuple[float, float], got [1] (list)"),
    (4, "  backbone: {name: eye, mean: [1, x]}", 4, "model.backbone.mean", "expected float, got 'x' (str)"),
    (5, "  perceiver: {name: tokens, embed_dim: 8}", 5, "model.perceiver.embed_dim", "is set by the model"),
    (5, "  perceiver: {name: tokens, tables: {a: b}}", 5, "model.perceiver.tables.a", "expected float, got 'b' (str)"),
    (6, "  projector: {name: mlp, ratio: true}", 6, "model.projector.ratio", "expected 1 | 2, got True (bool)"),
    (6, "  projector:", 6, "model.projector", "expected the name of a projector"),
    (8, "    name: parrot", 9, "model.decoder.path", "unknown argument of decoder 'parrot'; it takes: volume"),
    (
        9,
        "    dropout: 1",
        8,
        "model.decoder.path",
        "decoder 'talker' needs the argument 'path': folder of the weights.",
    ),
    (12, "  train: {name: dotz}", 12, "data.train", "unknown dataset 'dotz'; did you mean 'dots'?"),
    (12, "  tasks: {caption: 1}", 11, "data.train", "is missing; choose one of dots"),
]


def named(found: list[str], place: str, key: str, message: str) -> bool:
    start = f"{place}: {key}: " if key else f"{place}: "
    return any(problem.startswith(start) and message in problem for problem in found)


@pytest.mark.parametrize("text, key, message", ADDED, ids=[row[0] for row in ADDED])
def test_a_mistake_is_named_with_its_place(write, text, key, message):
    found = problems(write(TINY + text + "\n"))
    line = 18 if text == "init_from: [" else 17  # a bracket is missed where the file ends
    assert named(found, f"tiny.yaml:{line}", key, message), found


@pytest.mark.parametrize("replaced, text, line, key, message", REPLACED, ids=[row[1].strip() for row in REPLACED])
def test_a_mistake_in_a_line_is_named_with_its_place(write, replaced, text, line, key, message):
    lines = TINY.splitlines(keepends=True)
    lines[replaced - 1] = text + "\n"
    found = problems(write("".join(lines)))
    assert named(found, f"tiny.yaml:{line}", key, message), found


TRAIN = [
    ("learning_rat: 1", "train.learning_rat", "unknown key; did you mean 'learning_rate'?"),
    ("learning_rate: fast", "train.learning_rate", "expected float, got 'fast' (str)"),
    ("learning_rate: 0", "train.learning_rate", "must be above 0, not 0.0"),
    ("learning_rate: -1e-4", "train.learning_rate", "must be above 0"),
    ("learning_rate: .nan", "train.learning_rate", "must be above 0"),
    ("learning_rate: .inf", "train.learning_rate", "must be above 0"),
    ("learning_rate: true", "train.learning_rate", "expected float, got True (bool)"),
    (
        "trainable: [perciever]",
        "train.trainable",
        "unknown part 'perciever'; did you mean 'perceiver'? Valid: backbone",
    ),
    ("trainable: perceiver", "train.trainable", "expected list[str], got 'perceiver' (str)"),
    ("learning_rate_factors: {decodr: 1}", "train.learning_rate_factors.decodr", "did you mean 'decoder'?"),
    ("learning_rate_factors: {decoder: -1}", "train.learning_rate_factors.decoder", "must be 0 or more, not -1.0"),
    ("betas: [0.9]", "train.betas", "must be two numbers, not 1"),
    ("betas: [0.9, 1]", "train.betas", "must be from 0 to below 1, not 1.0"),
    ("warmup_ratio: 1", "train.warmup_ratio", "must be from 0 to below 1, not 1.0"),
    (
        "global_batch_size: 24",
        "train.global_batch_size",
        "24 is not a multiple of train.device_batch_size, which is 16",
    ),
    ("device_batch_size: 5", "train.global_batch_size", "16 is not a multiple of train.device_batch_size, which is 5"),
    ("device_batch_size: 0", "train.device_batch_size", "must be above 0"),
    ("global_batch_size: -16", "train.global_batch_size", "must be above 0"),
    ("max_steps: 1.5", "train.max_steps", "expected int | None, got 1.5 (float)"),
    ("max_steps: 0", "train.max_steps", "must be above 0"),
    ("loss: {dise: 1}", "train.loss.dise", "unknown key; did you mean 'dice'?"),
    ("loss: {focal: -1}", "train.loss.focal", "must be 0 or more"),
    ("loss: 3", "train.loss", "expected keys such as text"),
    ("devices: 1.5", "train.devices", "expected int | str, got 1.5 (float)"),
]
DATA = [
    ("tasks: {recognise: 1}", "data.tasks.recognise", "unknown task 'recognise'; did you mean 'recognize'?"),
    ("tasks: {caption: 0}", "data.tasks", "at least one share must be above 0"),
    ("tasks: {}", "data.tasks", "at least one share must be above 0"),
    ("tasks: [caption]", "data.tasks", "expected dict[str, float], got ['caption'] (list)"),
    ("tasks: {caption: .nan}", "data.tasks.caption", "must be 0 or more"),
    ("languages: {en: -1, zh: 2}", "data.languages.en", "must be 0 or more, not -1.0"),
    ("languages: {english: 1}", "data.languages.english", "unknown language 'english'; valid: en, zh"),
    ("prompts: {whole_image: 1}", "data.prompts.whole_image", "unknown prompt 'whole_image'; valid: box, point, mask"),
    ("max_broken_share: 1.5", "data.max_broken_share", "must be from 0 to 1, not 1.5"),
    ("absent_prompts: 2", "data.absent_prompts", "must be from 0 to 1, not 2"),
    ("vocabulary_from: [micro_clip]", "data.vocabulary_from", "unknown source of texts 'micro_clip'; valid: questions"),
    ("num_workers: -1", "data.num_workers", "must be 0 or more"),
    ("regions_per_image: 0", "data.regions_per_image", "must be above 0"),
]
EVALUATE = [
    ("batch_size: 0", "evaluate.batch_size", "must be above 0"),
    ("splits: [a]", "evaluate.splits", "expected a name and its keys for each entry"),
    ("splits: {a: {prompts: [box]}}", "evaluate.splits.a.dataset", "is missing; choose one of dots"),
    (
        "splits: {a: {dataset: dots, prompts: [boxx]}}",
        "evaluate.splits.a.prompts",
        "unknown prompt 'boxx'; did you mean 'box'?",
    ),
    ("splits: {a: {dataset: dots, prompts: []}}", "evaluate.splits.a.prompts", "must name at least one"),
    ("splits: {a: {dataset: dots, streams: [carry+memry]}}", "evaluate.splits.a.streams", "unknown switch 'memry'"),
    ("splits: {a: {dataset: dots, tasks: [name]}}", "evaluate.splits.a.tasks", "unknown task 'name'; valid: recognize"),
    ("splits: {a: {dataset: dots, languages: [fr]}}", "evaluate.splits.a.languages", "unknown language 'fr'"),
    ("splits: {a: {dataset: {name: dots, sed: 1}}}", "evaluate.splits.a.dataset.sed", "did you mean 'seed'?"),
    ("splits: {a: {dataset: dots, limit: 0}}", "evaluate.splits.a.limit", "must be above 0"),
]
BELOW = [("train", *row) for row in TRAIN] + [("data", *row) for row in DATA] + [("evaluate", *row) for row in EVALUATE]


@pytest.mark.parametrize("section, text, key, message", BELOW, ids=[f"{row[0]}: {row[1]}" for row in BELOW])
def test_a_mistake_in_a_section(write, section, text, key, message):
    write(TINY, "base.yaml")
    (problem,) = problems(write(f"extends: base.yaml\nname: x\n{section}:\n  {text}\n", "child.yaml"))
    assert problem.startswith(f"child.yaml:4: {key}: ") and message in problem


@pytest.mark.parametrize(
    "override, key, message",
    [
        ("train.max_steps", "", "expected key=value"),
        ("=3", "", "expected key=value"),
        ("train..max_steps=3", "", "expected key=value"),
        ("extends=base", "extends", "can only stand in a file"),
        ("train.max_stops=3", "train.max_stops", "unknown key; did you mean 'max_steps'?"),
        ("decodr=talker", "decodr", "unknown key; did you mean 'model.decoder'?"),
        ("decoder=talkr", "model.decoder", "unknown decoder 'talkr'; did you mean 'talker'?"),
        ("decoder.num_layer=2", "model.decoder.num_layer", "did you mean 'num_layers'?"),
        ("decoder.num_layers=x", "model.decoder.num_layers", "expected int | None, got 'x' (str)"),
        ("train.learning_rate=fast", "train.learning_rate", "expected float, got 'fast' (str)"),
        ("train.trainable=[percever]", "train.trainable", "did you mean 'perceiver'?"),
        ("train.betas.0=0.5", "train.betas", "which has no keys; give it whole"),
        ("data=", "data", "expected keys such as train"),
        ("data.tasks.captoin=1", "data.tasks.captoin", "did you mean 'caption'?"),
        ("init_from={a", "", "not valid YAML: while parsing a flow mapping"),
        ("init_from=${oc.env:HOME}", "init_from", "only ${section.key} is understood"),
    ],
)
def test_a_mistake_on_the_command_line(write, override, key, message):
    found = problems(write(TINY.replace("max_steps: 100", "betas: [0.9, 0.9]")), override)
    place = f"command line: {override}: " + (f"{key}: " if key else "")
    assert len(found) == 1 and found[0].startswith(place) and message in found[0], found


def test_all_mistakes_are_reported_at_once_from_top_to_bottom(write):
    write(TINY.replace("eye", "ey").replace("seed: 3", "sead: 3"), "base.yaml")
    path = write("extends: base.yaml\ntrain: {betas: 1}\nmodel: {decoder: {dropout: x}}\n", "child.yaml")
    found = problems(path, "train.epochs=-1", "nonsense")
    assert [problem.partition(": ")[0] for problem in found] == [
        "base.yaml:2",
        "base.yaml:4",
        "child.yaml:2",
        "child.yaml:3",
        "command line",
        "command line",
    ]


def test_what_is_missing_is_not_claimed_where_a_parent_is_missing(write):
    found = problems(write("extends: bas.yaml\nmodel: {decoder: {name: talkr}, backbone: {image_size: 1}}\n"))
    assert len(found) == 2 and "there is no recipe" in found[0] and "unknown decoder" in found[1]


def test_an_empty_recipe_says_what_it_needs(write):
    found = problems(write("model:\n  decoder: parrot\n"))
    assert "tiny.yaml:1: data: is missing; it needs train" in found
    assert "tiny.yaml:1: model.backbone: is missing; choose one of eye" in found
    assert problems(write("")) == ["tiny.yaml:1: expected a recipe, with sections such as model, data and train"]
    assert problems(write("- a\n")) == ["tiny.yaml:1: expected a recipe, with sections such as model, data and train"]


def test_circles_and_unreadable_files(write, tmp_path):
    write("extends: b.yaml\n", "a.yaml")
    write("extends: a.yaml\n", "b.yaml")
    assert problems("a.yaml") == ["b.yaml:1: extends: a recipe cannot extend itself: a.yaml -> b.yaml -> a.yaml"]
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    (problem,) = problems("latin.yaml")
    assert problem.startswith("latin.yaml: cannot be read: 'utf-8' codec")
    write("a: " + "[" * 500, "deep.yaml")
    assert problems("deep.yaml") == ["deep.yaml:1: nested too deeply"]


def test_find_recipe(write, tmp_path, monkeypatch):
    shipped = {"pam_tiny": Path("/shipped/pam_tiny.yaml"), "v1.5": Path("/shipped/v1.5.yaml")}
    monkeypatch.setattr(recipe_source, "shipped_files", lambda: shipped)
    write(TINY, "mine.yaml")
    assert find_recipe("mine.yaml") == Path("mine.yaml")
    assert find_recipe(tmp_path / "mine.yaml") == tmp_path / "mine.yaml"
    assert find_recipe("pam_tiny") == find_recipe("pam_tiny.yaml") == Path("/shipped/pam_tiny.yaml")
    assert find_recipe("v1.5") == Path("/shipped/v1.5.yaml")
    for unknown, near in (("pam_tinny", "pam_tiny"), ("min.yaml", "mine.yaml"), ("nowhere/pam_tiny.yaml", "pam_tiny")):
        with pytest.raises(
            RecipeError, match=f"there is no recipe '{unknown}'; did you mean '{near}'.*shipped: pam_tiny, v1.5"
        ):
            find_recipe(unknown)
    with pytest.raises(RecipeError, match="there is no recipe '.*zzz'; recipes that are shipped: pam_tiny"):
        find_recipe(tmp_path / "zzz")
    write(TINY, "pam_tiny.yaml")
    assert find_recipe("pam_tiny.yaml") == Path("pam_tiny.yaml")


def test_shipped_recipes_have_a_description():
    for name, (path, description) in shipped_recipes().items():
        assert path.stem == name and path.is_file() and description


NUMBERS = st.floats(min_value=1e-12, max_value=1e12)
TEXTS = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=("Cc", "Cs", "Cn")), max_size=12).filter(
    lambda text: "${" not in text and text != "???"
)
CHANGES = {
    "name": TEXTS,
    "init_from": st.none() | TEXTS,
    "seed": st.integers(0, 2**32 - 1),
    "train.learning_rate": NUMBERS | st.integers(1, 9),
    "train.max_steps": st.none() | st.integers(1, 10**9),
    "train.loss.text": NUMBERS,
    "train.betas": st.lists(st.floats(0, 0.999), min_size=2, max_size=2),
    "train.trainable": st.lists(st.sampled_from(sections.TRAINABLE_PARTS)),
    "train.devices": st.integers(1, 8) | st.just("auto"),
    "train.precision": st.sampled_from(["auto", "32-true", "bf16-mixed"]),
    "train.accelerator": st.sampled_from(
        ["16", "1e-5", "true", "null", "2024-01-01", "0x1f", "1:30", "~", "=", "a: b", "#x"]
    ),
    "data.prompts.point": NUMBERS,
    "data.tasks": st.dictionaries(st.sampled_from(["caption", "explain"]), NUMBERS, min_size=1),
    "decoder.dropout": NUMBERS,
    "decoder.options": st.recursive(
        st.none() | st.booleans() | st.integers() | NUMBERS | TEXTS, st.lists, max_leaves=5
    ),
    "backbone.mean": st.tuples(NUMBERS, NUMBERS),
    "evaluate.splits.held_out.limit": st.none() | st.integers(1, 99),
}


def flow(value) -> str:
    """A value on one line of YAML 1.1, written here so that the kit's own writer is not its own judge."""
    if isinstance(value, str):
        return json.dumps(value)  # JSON's escapes are YAML's too, but for surrogate pairs
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def at(recipe, key: str):
    """The value of a dotted key in a typed recipe."""
    value = recipe.model if key.partition(".")[0] in sections.SLOTS else recipe
    for part in key.split("."):
        value = value.arguments if isinstance(value, ComponentChoice) else value
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(chosen=st.lists(st.sampled_from(sorted(CHANGES)), unique=True, max_size=6), data=st.data())
def test_overrides_survive_the_round_trip(write, tmp_path, chosen, data):
    values = {key: data.draw(CHANGES[key], key) for key in chosen}
    overrides = [f"{key}={flow(value)}" for key, value in values.items()]
    recipe = load_recipe(write(TINY), overrides)
    for key, value in values.items():
        assert at(recipe, key) == value
    again = load_recipe(write(resolved_yaml(recipe), "resolved.yaml"))
    assert dataclasses.replace(again, source="tiny.yaml", overrides=overrides) == recipe
    assert yaml.safe_load(resolved_yaml(recipe))["model"]["decoder"]["name"] == "talker"


def test_valid_keys_are_the_keys_that_load(write):
    keys = {key.key: key for key in valid_keys()}
    assert keys["train.loss.dice"].doc.startswith("dice loss of the masks")
    assert (keys["train.learning_rate"].type, keys["train.learning_rate"].default) == ("float", "0.0001")
    assert keys["train.trainable"].default == "[perceiver, projector, prefix]"
    assert keys["data.train"].default is None and keys["train"].default == "{}"
    assert keys["evaluate.splits.<name>.prompts"].doc.startswith("box, point, mask")
    assert "source" not in keys and "overrides" not in keys
    path = write(TINY)
    for key in keys.values():
        if key.default not in (None, "{}", "the file's name"):
            load_recipe(path, [f"{key.key.replace('<name>', 'held_out')}={key.default}"])


@pytest.mark.parametrize(
    "annotation, value, expected",
    [
        ("int", 3, 3),
        ("int", True, INVALID),
        ("bool", True, True),
        ("bool", 1, INVALID),
        ("float", 3, 3.0),
        ("float", "1e-5", 1e-5),
        ("float", "nan", INVALID),
        ("str", 3, INVALID),
        ("None", None, None),
        ("int | None", None, None),
        ("Optional[int]", "x", INVALID),
        ("typing.Union[float, str]", "1e-5", "1e-5"),
        ("float | int", 3, 3),
        ("'int | str'", "x", "x"),
        ("Literal['a', 1]", 1, 1),
        ("typing.Literal['a', 1]", True, INVALID),
        ("Literal['a'] | None", "b", INVALID),
        ("list[int]", [1, 2], [1, 2]),
        ("list[int]", [1, "x"], INVALID),
        ("Sequence[float]", [1], [1.0]),
        ("tuple[int, str]", [1, "a"], (1, "a")),
        ("tuple[int, str]", [1], INVALID),
        ("tuple[int, ...]", [1, 2, 3], (1, 2, 3)),
        ("dict[str, list[float]]", {"a": [1]}, {"a": [1.0]}),
        ("dict[str, int]", {"a": {}}, INVALID),
        ("list[int] | dict[str, int]", {"a": 1}, {"a": 1}),
        ("Any", {"a": [None]}, {"a": [None]}),
        ("torch.dtype | None", "bfloat16", "bfloat16"),
        ("Callable[[int], str]", [1], [1]),
        ("not an annotation", 1, 1),
        ("", 1, 1),
    ],
)
def test_types(annotation, value, expected):
    errors = []
    converted = convert(as_marked(value, Place("here", 1)), parse_annotation(annotation), "key", errors)
    assert (converted is INVALID) == bool(errors) == (expected is INVALID)
    assert converted is INVALID or (converted == expected and type(converted) is type(expected))


def test_a_recipe_loads_without_torch(write):
    code = """
        import sys
        from pam_kit.recipe import load_recipe, shipped_recipes, valid_keys
        from pam_kit.errors import RecipeError
        shipped_recipes(), valid_keys()
        try:
            load_recipe("tiny.yaml", ["init_from=${name}"])
        except RecipeError as error:
            assert "unknown backbone 'eye'" in str(error), error  # the made-up components are not registered there
        heavy = {"torch", "numpy", "transformers", "timm", "sam2", "lightning"} & set(sys.modules)
        assert not heavy, heavy
    """
    write(TINY)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("train.devices=0", "must be auto or a number of devices above 0, not 0"),
        ("train.devices=many", "must be auto or a number of devices above 0, not 'many'"),
        ("train.precision=bf17-mixed", "unknown precision 'bf17-mixed'; did you mean 'bf16-mixed'"),
        ("schedule=[a]", "schedule: can only stand in a file"),
    ],
)
def test_what_a_trainer_would_not_take_is_refused_beforehand(write, change, reason):
    with pytest.raises(RecipeError, match=reason):
        load_recipe(write(TINY), [change])
