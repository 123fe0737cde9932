"""The command line where nothing is trained: quick, helpful where the user errs, complete in what it lists."""

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from pam_kit.cli import main
from pam_kit.data.micro.dataset import MicroDataset
from pam_kit.data.samples import write_jsonl

VERBS = (
    "fit",
    "evaluate",
    "ablate",
    "bench",
    "predict",
    "everything",
    "recognize",
    "evaluate-labels",
    "probe",
    "stream",
    "describe-long",
    "plan",
    "components",
    "recipes",
    "data",
    "import-pam",
    "export-pam",
    "export",
)
TINY = """\
# A tiny run of the command line's tests.
model:
  backbone:
    name: timm_sam
    model_name: test_byobnet
    image_size: 64
    embed_dim: 32
    decoder_depth: 1
    decoder_heads: 2
    decoder_mlp_dim: 32
  perceiver: {name: semantic_perceiver, num_semantic_tokens: 2, depth: 1, num_heads: 2, mlp_dim: 32}
  projector: {name: pixel_shuffle_mlp, ratio: 2}
  decoder:
    {name: causal_lm, hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 300, max_length: 256, template: plain}
data:
  train: {name: micro, num_samples: 4, image_size: 64}
  num_workers: 0
train:
  max_steps: 9
  global_batch_size: 2
  device_batch_size: 2
  accelerator: cpu
  devices: 1
  num_threads: 1
evaluate:
  max_new_tokens: 4
  pictures: 1
  splits:
    held_out: {dataset: {name: micro, num_samples: 2, seed: 7, image_size: 64}}
"""


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def failing(capsys, *arguments) -> str:
    """The message of a call that must end with exit code 2 and without a traceback."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    assert captured.err.startswith(f"pam-kit {arguments[0]}: ")
    return captured.err


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "tiny_cli.yaml"
    path.write_text(TINY)
    return path


def test_help_and_import_load_nothing_heavy():
    code = (
        "import sys, time\n"
        "import pam_kit\nfrom pam_kit.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: print('exit', end.code)\n"
        "heavy = {'torch', 'numpy', 'transformers', 'lightning', 'sam2', 'timm', 'triton'} & set(sys.modules)\n"
        "print('seconds', time.process_time(), 'heavy', sorted(heavy))"
    )
    output = python(code)
    # Of the CPU, the interpreter's start included: on the clock it takes longer beside other work.
    assert "heavy []" in output and "exit 0" in output and float(re.search(r"seconds (\S+)", output)[1]) < 2
    assert all(re.search(rf"^ +{verb}\b", output, re.MULTILINE) for verb in VERBS)


def test_verbs_that_only_read_need_no_torch(recipe):
    bad = recipe.with_name("no_torch.yaml")
    bad.write_text(TINY + "sed: 1\n")
    calls = [["recipes"], ["recipes", "--keys"], ["components"], ["fit", str(bad)]]
    code = f"import sys; from pam_kit.cli import main; print([main(call) for call in {calls}], 'torch' in sys.modules)"
    assert python(code).splitlines()[-1] == "[0, 0, 0, 2] False"


def test_the_console_script_is_this_function():
    (script,) = entry_points(group="console_scripts", name="pam-kit")
    assert script.value == "pam_kit.cli:main"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and f"usage: pam-kit {verb}" in text and len(text.splitlines()) > 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        [],
        ["predict", "a.png"],
        ["predict", "a.png", "--checkpoint", "x", "--task", "sing"],
        ["predict", "a.png", "--checkpoint", "x", "more"],
        ["fit", "pam_tiny", "--unknown=1"],
        ["plan", "pam_tiny", "--devices", "2", "word"],
    ],
)
def test_a_mistyped_command_is_refused_by_the_parser(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    captured = capsys.readouterr()
    assert end.value.code == 2 and "pam-kit" in captured.err and captured.out == ""


def test_changes_may_stand_before_and_after_options(capsys, recipe):
    arguments = ["plan", str(recipe), "train.max_steps=1", "--devices", "1", "train.max_steps=77"]
    assert main(arguments) == 0
    assert "77 steps, 154 samples" in capsys.readouterr().out


def test_every_mistake_in_a_recipe_is_named_with_its_line(capsys, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(TINY.replace("max_steps: 9", "max_step: 9").replace("depth: 1, num", "deep: 1, num"))
    text = failing(capsys, "fit", path, "decoder.num_layer=3")
    lines = path.read_text().splitlines()
    for word, suggestion in (("max_step", "max_steps"), ("deep", "depth")):
        line = next(number for number, content in enumerate(lines, 1) if f"{word}:" in content)
        (found,) = re.findall(rf"{re.escape(str(path))}:{line}: .*{word}: .*", text)
        assert f"did you mean {suggestion!r}?" in found
    assert "command line: decoder.num_layer=3" in text and "did you mean 'num_layers'?" in text


def test_an_unknown_component_lists_the_registered_ones(capsys, recipe):
    text = failing(capsys, "plan", recipe, "perceiver=semantic_perciever")
    assert "unknown perceiver 'semantic_perciever'; did you mean 'semantic_perceiver'?" in text and "none" in text


@pytest.mark.parametrize("verb", ["fit", "plan"])
def test_an_unknown_recipe_lists_the_shipped_ones(capsys, verb):
    assert "there is no recipe 'pam_tinny'; did you mean 'pam_tiny'?" in failing(capsys, verb, "pam_tinny")


def test_a_resume_without_a_run_says_so(capsys, recipe, tmp_path):
    assert "nothing to resume: no run of tiny_cli" in failing(capsys, "fit", recipe, "--resume", "--out", tmp_path)


def registrations() -> list[tuple[str, str, list[str]]]:
    """Slot, name and arguments of every component, read off the sources."""
    root = Path(__file__).parents[1]
    found = []
    for path in [*root.glob("components/*/*.py"), *root.glob("src/pam_kit/data/**/*.py")]:
        source = path.read_text(encoding="utf-8")
        for match in re.finditer(r'@register\(\s*"(\w+)",\s*"(\w+)"', source):
            signature = re.search(r"def __init__\(\s*self,?(.*?)\)( -> None)?:\n", source[match.end() :], re.DOTALL)
            names = re.findall(r"(?:^|[,(]|\n)\s*(\w+):", signature[1] if signature else "")
            found.append((*match.groups(), names))
    return found


def test_components_lists_all_with_their_arguments(capsys):
    assert main(["components"]) == 0
    slots = dict(re.findall(r"^(\w+)\n((?:[ ]+.*\n?)*)", capsys.readouterr().out, re.MULTILINE))
    assert list(slots) == ["backbone", "perceiver", "projector", "decoder", "dataset"]
    assert len(registrations()) > 8
    for slot, name, arguments in registrations():
        (shown,) = re.findall(rf"^  {name}: .*\n((?:      .*\n)*)", slots[slot], re.MULTILINE)
        supplied = {"embed_dim", "output_dim"} if slot in ("perceiver", "projector") else set()
        listed = re.findall(r"^      (\w+): ", shown, re.MULTILINE)
        assert listed == [argument for argument in arguments if argument not in supplied], name
    assert "  qwen2_5_3b: causal_lm with path=Qwen/Qwen2.5-3B-Instruct, hidden_size=2048" in slots["decoder"]


def test_components_of_one_slot(capsys):
    assert main(["components", "projector"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("projector\n") and "pixel_shuffle_mlp" in text and "timm_sam" not in text


def test_recipes_lists_the_shipped_files(capsys):
    assert main(["recipes"]) == 0
    text = capsys.readouterr().out
    for path in (Path(__file__).parents[1] / "recipes").glob("*.yaml"):
        assert re.search(rf"^{path.stem}\s+\S.*\n\s+.*{path.name}$", text, re.MULTILINE)


def test_recipes_lists_every_key(capsys):
    assert main(["recipes", "--keys"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "train.learning_rate: float = 0.0001" in lines and "model.decoder: component required" in lines
    assert lines[lines.index("train.max_steps: int | None = null") + 1].startswith("    optimiser steps")
    assert not any("None" == line.strip() for line in lines)


def test_plan_counts_what_the_model_has(capsys, recipe):
    from pam_kit.model import RegionVLM
    from pam_kit.recipe import load_recipe

    assert main(["plan", str(recipe)]) == 0
    text = capsys.readouterr().out
    model = RegionVLM.from_recipe(load_recipe(recipe))
    for part in ("backbone", "perceiver", "projector", "decoder", "prefix"):
        total = sum(p.numel() for p in getattr(model, part).parameters())
        assert re.search(rf"^{part} .* {total:,}$", text, re.MULTILINE)
    assert f"{sum(p.numel() for p in model.parameters()):,}" in text
    # 64 pixels make a grid of 4 x 4, and the projector merges 2 x 2 of its cells.
    assert "4 visual + 2 semantic a region (8 positions with their newlines)" in text
    assert "features 4x4" in text and "9 steps, 18 samples" in text


def test_plan_refuses_devices_that_do_not_divide_the_batch(capsys, recipe):
    assert "is no multiple of device_batch_size 2 times 3 devices" in failing(capsys, "plan", recipe, "--devices", "3")


def test_data_check_of_a_registered_dataset(capsys):
    assert main(["data", "check", "micro", "num_samples=5", "image_size=64"]) == 0
    captured = capsys.readouterr()
    regions = sum(len(MicroDataset(5, image_size=64)[index].regions) for index in range(5))
    assert f"micro:\n5 pictures, {regions} regions, {regions} of them with a mask" in captured.out
    assert "0 of 5 samples are broken" in captured.out and "micro" in captured.err


def test_data_check_names_a_broken_line(capsys, tmp_path):
    path = tmp_path / "set.jsonl"
    dataset = MicroDataset(2, image_size=64)
    write_jsonl([dataset[0], dataset[1]], path, tmp_path / "pictures")
    assert main(["data", "check", str(path)]) == 0
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], '{"image": ', lines[1]]), encoding="utf-8")
    capsys.readouterr()
    assert main(["data", "check", str(path)]) == 1
    text = capsys.readouterr().out
    assert "1 of 3 samples are broken" in text and "set.jsonl:2" in text and "invalid JSON" in text


def test_data_check_of_a_recipe_reads_all_its_sets(capsys, recipe):
    assert main(["data", "check", str(recipe), "data.train.num_samples=3"]) == 0
    text = capsys.readouterr().out
    assert "tiny_cli: train:\n3 pictures" in text and "tiny_cli: held_out:\n2 pictures" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.jsonl"], "no file nothing.jsonl; expected a JSONL file"),
        (["micro", "num_sample=3"], "did you mean 'num_samples'?"),
        (["micro", "num_samples=0"], "num_samples is 0; expected 1 or more"),
        (["micro", "image_size"], "expected key=value"),
        (["mikro"], "there is no recipe 'mikro'"),
    ],
)
def test_data_check_of_what_does_not_exist(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in failing(capsys, "data", "check", *arguments)


def test_a_schedule_is_scored_on_its_last_stage(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "pam_kit.cli.evaluation.evaluate_recipe", lambda recipe, *rest: asked.append((recipe.name, *rest))
    )
    assert main(["evaluate", "pam_tiny_video", "--checkpoint", "runs/some"]) == 0
    assert asked == [("pam_tiny_video_stage2", "runs/some", Path("runs/some/evaluation/pam_tiny_video_stage2"))]
