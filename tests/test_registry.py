"""The registry reads off files what Python says of the imported classes, and imports nothing to do so."""

import dataclasses
import importlib
import subprocess
import sys
import textwrap
from typing import Literal

import pytest

from pam_kit import registry
from pam_kit.declarations import argument_docs, declare_live
from pam_kit.errors import MissingPackageError, PamKitError
from pam_kit.registry import Parameter, find, register, specs, suggest
from pam_kit.source_files import locate

PARTS = '''
    """Parts of a made-up kit."""

    from __future__ import annotations

    import dataclasses
    from dataclasses import dataclass, field
    from typing import ClassVar, Literal

    from pam_kit import register as component
    from pam_kit import registry
    from zoo.bases import Base, Width

    Order = Literal["row", "column"]
    DEPTH = 4


    @component("projector", "plain")
    class Plain:
        """Says little.

        Longer text.

        Args:
            embed_dim: width C.
            order (str): of the tokens,
                row or column.
            ratio, depth: how far: 1 to 4.

        Raises:
            ValueError: never.
        """

        def __init__(self, embed_dim: int, output_dim: int, *, order: Order | None = "row", ratio=2, depth: "int" = 3):
            self.arguments = (embed_dim, output_dim, order, ratio, depth)


    @component("decoder", "talker", {"loud": {"volume": 11, "voices": ["a"]}, "quiet": {"path": "q", "volume": -1}})
    class Talker:
        def __init__(self, path: str, volume: int = 5, voices: list[str] = (), **others):
            """Args:
                path: where it is.
            """
            self.path, self.volume, self.voices = path, volume, voices


    @registry.register(slot="decoder", name="child")
    class Child(Base):
        """Has its base's constructor."""


    @registry.register("dataset", "fields")
    @dataclass
    class Fields:
        kinds: ClassVar[int] = 3
        size: int
        names: list[str] = field(default_factory=list)
        split: Order = field(default="row")
        hidden: int = dataclasses.field(default=0, init=False)


    @component("decoder", "computed")
    class Computed:
        def __init__(self, depth: int = DEPTH, width: Width = 8): ...


    class Unregistered:
        def __init__(self, x): ...
'''
BASES = '''
    """What the parts share."""

    from typing import Literal, TypeAlias

    Width: TypeAlias = Literal[8, 16]


    class Grandparent:
        """Args:
            size: in pixels.
        """

        def __init__(self, size: tuple[int, int] = (3, 4), other: dict[str, Width] | None = None): ...


    class Base(Grandparent):
        pass
'''


@pytest.fixture(autouse=True)
def empty_registry(monkeypatch):
    """No built-in and no live components; modules of a test are forgotten after it."""
    monkeypatch.setattr(registry, "BUILT_IN_PACKAGES", ())
    monkeypatch.setattr(registry, "_live", {})
    monkeypatch.setattr(registry, "_live_classes", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("zoo", "plugged"):
            del sys.modules[name]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a package's files, puts it on sys.path, and makes it the only built-in one if asked to."""

    def write(files: dict[str, str], name: str = "zoo", built_in: bool = True):
        for path, text in {"__init__.py": '"""A package."""\n', **files}.items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        if built_in:
            monkeypatch.setattr(registry, "BUILT_IN_PACKAGES", (name,))
        return tmp_path / name

    return write


def distribution(folder, name: str, *entry_points: str):
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "\n".join(f"part{i} = {value}" for i, value in enumerate(entry_points))
    (info / "entry_points.txt").write_text(f"[pam_kit.components]\n{lines}\n")


def component(slot: str, name: str, class_name: str = "Part", arguments: str = "") -> str:
    return (
        "from pam_kit.registry import register\n\n\n"
        f"@register({slot!r}, {name!r})\nclass {class_name}:\n    def __init__(self, {arguments}): ...\n"
    )


def everything():
    return {(slot, name): spec for slot in (*registry.SLOTS, "dataset") for name, spec in specs(slot).items()}


def test_the_text_of_a_file_says_what_python_says(package):
    package({"parts.py": PARTS, "bases.py": BASES})
    read = everything()
    assert "zoo.parts" not in sys.modules
    module = importlib.import_module("zoo.parts")  # its decorators run: the same classes, now live
    assert everything() == read
    for (slot, name), spec in read.items():
        if name != "computed" and not spec.preset_of:
            live = declare_live(getattr(module, spec.class_name), slot, name, {})
            plain = [dataclasses.replace(p, annotation="") for p in live.parameters]
            assert [dataclasses.replace(p, annotation="") for p in spec.parameters] == plain, name
            assert spec.doc == live.doc
            assert spec.load() is getattr(module, spec.class_name)


def test_what_is_read_off_a_file(package):
    folder = package({"parts.py": PARTS, "bases.py": BASES})
    plain = find("projector", "plain")
    assert plain.doc == "Says little."
    assert plain.place == f"{folder / 'parts.py'}:{PARTS.splitlines().index('    class Plain:')}"
    assert plain.parameters == (
        Parameter("embed_dim", "int", required=True, doc="width C."),
        Parameter("output_dim", "int", required=True),
        Parameter("order", "Literal['row', 'column'] | None", "row", doc="of the tokens, row or column."),
        Parameter("ratio", "", 2, doc="how far: 1 to 4."),
        Parameter("depth", "int", 3, doc="how far: 1 to 4."),
    )
    assert [p.name for p in plain.recipe_parameters] == ["order", "ratio", "depth"]
    assert find("decoder", "child").parameters == (
        Parameter("size", "tuple[int, int]", (3, 4), doc="in pixels."),
        Parameter("other", "dict[str, Literal[8, 16]] | None", None),
    )
    depth, width = find("decoder", "computed").parameters
    assert (depth.default, depth.default_is_source) == ("DEPTH", True)
    assert (width.annotation, width.default, width.default_is_source) == ("Literal[8, 16]", 8, False)


def test_presets(package):
    package({"parts.py": PARTS, "bases.py": BASES})
    assert list(specs("decoder")) == ["child", "computed", "loud", "quiet", "talker"]
    quiet = find("decoder", "quiet")
    assert (quiet.preset_of, quiet.class_name, find("decoder", "talker").preset_of) == ("talker", "Talker", None)
    assert [(p.name, p.default, p.required) for p in quiet.parameters] == [
        ("path", "q", False),
        ("volume", -1, False),
        ("voices", (), False),
    ]
    assert (quiet.build().path, quiet.build().volume) == ("q", -1)
    assert quiet.build(volume=7).volume == 7
    loud = find("decoder", "loud").build(path="p")
    loud.voices.append("b")
    assert find("decoder", "loud").build(path="p").voices == ["a"]


def test_an_unknown_name_lists_the_nearest_and_all(package):
    package({"parts.py": PARTS, "bases.py": BASES})
    with pytest.raises(
        PamKitError, match="unknown decoder 'talkr'; did you mean 'talker'.*child, computed, loud, quiet, talker"
    ):
        find("decoder", "talkr")
    with pytest.raises(PamKitError, match="unknown slot 'decoders'.*backbone, perceiver, projector, decoder, dataset"):
        specs("decoders")
    assert suggest("zzz", ["abc"]) == "" and suggest("zzz", [], "valid") == "; valid: none"


def test_a_changed_file_is_read_again(package):
    folder = package({"part.py": component("decoder", "a")})
    assert list(specs("decoder")) == ["a"]
    (folder / "deeper").mkdir()
    (folder / "deeper" / "more.py").write_text(component("decoder", "b"))
    (folder / "part.py").write_text(component("decoder", "renamed", arguments="x: int = 1"))
    assert list(specs("decoder")) == ["b", "renamed"]
    assert find("decoder", "b").module == "zoo.deeper.more"


def test_two_of_one_name_names_both_places(package):
    folder = package({"a.py": component("decoder", "same"), "b.py": component("decoder", "same", "Other")})
    with pytest.raises(PamKitError) as caught:
        specs("decoder")
    assert f"{folder / 'a.py'}:5" in str(caught.value) and f"{folder / 'b.py'}:5" in str(caught.value)
    assert specs("projector") == {}


@pytest.mark.parametrize(
    "text, message",
    [
        ("from pam_kit import register\nN = 'x'\n@register('decoder', N)\nclass A: ...\n", r"must be literals"),
        ("from pam_kit import register\n@register('decoder')\nclass A: ...\n", "needs a slot and a name"),
        (component("encoder", "x"), "unknown slot 'encoder'"),
        (component("decoder", "x", arguments="name: str"), "cannot be called 'name'"),
        (component("decoder", "x", arguments="a, /"), "drop the '/'"),
        ("from pam_kit import register\nclass A(:\n", "not valid Python"),
        (
            "from pam_kit import register\n@register('decoder', 'x', {'y': {'pth': 1}})\nclass A:\n"
            "    def __init__(self, path=''): ...\n",
            "preset 'y' sets 'pth', which it cannot; did you mean 'path'",
        ),
        ("from pam_kit import register\n@register('decoder', 'x', {'x': {}})\nclass A: ...\n", "component's own name"),
    ],
)
def test_a_wrong_declaration_names_file_and_line(package, text, message):
    package({"part.py": text})
    with pytest.raises(PamKitError, match=rf"part\.py:\d+: .*{message}"):
        everything()


def test_only_the_kits_own_decorator_counts(package):
    text = "from atexit import register\n@register('decoder', 'x')\nclass A: ...\n"
    package(
        {
            "part.py": text,
            "other.py": "import pam_kit.registry\n@pam_kit.registry.register('decoder', 'y')\nclass B: ...\n",
        }
    )
    assert list(specs("decoder")) == ["y"]


def test_a_missing_package_is_named(package):
    text = "from pam_kit.registry import register\nimport not_there.deep\n@register('decoder', 'x')\nclass A: ...\n"
    package({"part.py": text, "broken.py": component("decoder", "y") + "import zoo.nowhere\n"})
    with pytest.raises(MissingPackageError, match="decoder 'x'.*part.py:4.*pip install not_there"):
        find("decoder", "x").load()
    with pytest.raises(ModuleNotFoundError, match="zoo.nowhere"):  # the component's own mistake stays as it is
        find("decoder", "y").load()


def test_plugins_are_found_without_being_imported(package, tmp_path):
    exploding = 'raise RuntimeError("imported")\n'
    files = {"__init__.py": exploding, "part.py": component("decoder", "p"), "sub/deep.py": component("dataset", "d")}
    package(files, "plugged", built_in=False)
    distribution(tmp_path, "plugged_dist", "plugged.part", "plugged.sub.deep", "plugged.part")
    assert list(everything()) == [("decoder", "p"), ("dataset", "d")]
    assert "plugged" not in sys.modules


@pytest.mark.parametrize(
    "entry, text, reason",
    [
        ("plugged.nowhere", "", "no module named 'plugged.nowhere'"),
        ("nowhere_at_all", "", "no module named 'nowhere_at_all'"),
        ("plugged.part", "register\nclass (", "not valid Python"),
        ("plugged.part", "", "registers no component"),
        ("plugged.part", component("encoder", "x"), "unknown slot"),
        ("math", "", "no source file"),
        ("", "", "no module named ''"),
    ],
)
def test_a_broken_plugin_warns_and_the_others_stay(package, tmp_path, entry, text, reason):
    package({"part.py": text}, "plugged", built_in=False)
    package({"part.py": component("decoder", "good")})
    distribution(tmp_path, "broken-dist", entry)
    with pytest.warns(UserWarning, match=rf"'broken-dist'.*left out: .*({reason})"):
        assert list(specs("decoder")) == ["good"]


def test_a_plugin_cannot_take_a_built_in_name(package, tmp_path):
    package({"part.py": component("decoder", "same")}, "plugged", built_in=False)
    package({"part.py": component("decoder", "same")})
    distribution(tmp_path, "plugged_dist", "plugged.part")
    with pytest.raises(
        PamKitError, match="two components are called decoder 'same': .*zoo.part.py:5 and .*plugged.part.py:5"
    ):
        specs("decoder")


def test_locate_agrees_with_python():
    for name in ("json.decoder", "xml", "email.mime.text", "pam_kit.components.decoders", "pam_kit.data"):
        assert locate(name).origin == importlib.util.find_spec(name).origin
    assert locate("json.nowhere") is None and locate("json.decoder.nowhere") is None and locate("no_such_thing") is None


def test_a_live_class_is_found_at_once():
    @register("perceiver", "live", presets={"small": {"depth": 1}})
    class Live:
        """Made in a session.

        Args:
            depth: blocks.
        """

        def __init__(self, embed_dim: int, depth: int = 2, kind: Literal["a", "b"] = "a", dtype: type = float):
            self.depth = depth

    spec = find("perceiver", "live")
    assert spec.load() is Live and spec.doc == "Made in a session."
    assert spec.recipe_parameters == (
        Parameter("depth", "int", 2, doc="blocks."),
        Parameter("kind", "Literal['a', 'b']", "a"),
        Parameter("dtype", "type", repr(float), default_is_source=True),
    )
    assert find("perceiver", "small").build(embed_dim=8).depth == 1


def define(name: str, presets=None):
    @register("decoder", name, presets)
    class Cell:
        def __init__(self, x: int = 1): ...

    return Cell


def test_a_cell_run_again_replaces_its_class():
    define("cell")
    again = define("cell")
    assert find("decoder", "cell").load() is again


def test_a_live_class_cannot_take_a_name(package):
    package({"part.py": component("decoder", "taken")})
    with pytest.raises(PamKitError, match="two components are called decoder 'taken': .*part.py:5 and .*Cell"):
        define("taken")
    with pytest.raises(PamKitError, match="two components"):
        define("free", {"taken": {}})
    with pytest.raises(PamKitError, match="preset 'p' sets 'y'"):
        define("free", {"p": {"y": 1}})
    assert list(specs("decoder")) == ["taken"]


def test_argument_docs():
    assert argument_docs(None) == argument_docs("No section.") == {}
    assert argument_docs("A.\n\nArgs:\n    a: one.\n\n    *b: two\n        lines: here.\nReturns:\n    c: no.") == {
        "a": "one.",
        "b": "two lines: here.",
    }


def test_everything_is_listed_without_torch():
    code = """
        import sys
        import pam_kit.registry as registry
        for slot in (*registry.SLOTS, "dataset"):
            for spec in registry.specs(slot).values():
                print(slot, spec.name, spec.doc, spec.recipe_parameters)
        heavy = {"torch", "numpy", "transformers", "timm", "sam2", "lightning", "omegaconf"} & set(sys.modules)
        assert not heavy, heavy
        assert not [name for name in sys.modules if name.startswith("pam_kit.components.")], "imported components"
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
