"""The examples of CONTRIBUTING.md run as they stand there, as a package that registers by entry points."""

import re
import sys
from pathlib import Path

import pytest

from pam_kit import registry
from pam_kit.cli import main
from pam_kit.recipe import load_recipe

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = {
    name: body for _, name, body in re.findall(r"```(python|yaml)\n# example: (\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
}
MODULES = ("backbone", "perceiver", "projector", "decoder")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed distribution whose modules are the examples."""
    package = tmp_path / "site" / "contributed_parts"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name in MODULES:
        (package / f"{name}_example.py").write_text(EXAMPLES[name], encoding="utf-8")
    info = tmp_path / "site" / "contributed_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: contributed-parts\nVersion: 1.0\n")
    entries = "".join(f"{name} = contributed_parts.{name}_example\n" for name in MODULES)
    (info / "entry_points.txt").write_text(f"[pam_kit.components]\n{entries}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("contributed_parts")]:
        del sys.modules[name]
    for known in (registry._live, registry._live_classes):
        for key in [key for key in known if any("contributed_parts" in str(part) for part in key)]:
            del known[key]


def test_every_kind_of_component_has_an_example():
    assert set(EXAMPLES) == {*MODULES, "recipe"}


def test_the_examples_are_found_without_being_imported(plugin):
    assert registry.find("backbone", "plain_convolutions").module == "contributed_parts.backbone_example"
    assert "contributed_parts.backbone_example" not in sys.modules


def test_the_example_recipe_trains_the_examples(plugin, capsys):
    Path("examples.yaml").write_text(EXAMPLES["recipe"], encoding="utf-8")
    assert {getattr(load_recipe("examples.yaml").model, slot).name for slot in MODULES} == {
        "plain_convolutions",
        "mask_average",
        "average_pool",
        "small_llama",
    }
    assert main(["fit", "examples.yaml"]) == 0
    assert Path("runs/examples/model/model.safetensors").is_file()
    assert "mask IoU" in capsys.readouterr().out
