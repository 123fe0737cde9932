"""Files and folders appear whole or not at all, and leave nothing of what failed."""

import json
import os

import pytest

from pam_kit.atomic_files import locked, whole_file, whole_folder, write_json


class Stop(Exception):
    """In the place of whatever ends a writer."""


def content(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def usual_permissions():
    """Those of a new file and a new folder under a mask that is not the default."""
    former = os.umask(0o027)
    yield 0o640, 0o750
    os.umask(former)


@pytest.mark.parametrize("options", [{}, {"unique": True}, {"sync": False}])
def test_a_file_changes_when_it_is_whole(tmp_path, options):
    path = tmp_path / "new" / "a.bin"
    for text in ("one", "two"):
        before = content(tmp_path).get("new/a.bin")
        with whole_file(path, **options) as file:
            file.write(text.encode())
            file.flush()
            assert content(tmp_path).get("new/a.bin") == before
        assert content(tmp_path) == {"new/a.bin": text}
    with pytest.raises(Stop), whole_file(path, **options) as file:
        file.write(b"half")
        raise Stop
    assert content(tmp_path) == {"new/a.bin": "two"}


def test_two_writers_of_a_file_have_drafts_of_their_own(tmp_path):
    path = tmp_path / "a.bin"
    with whole_file(path, unique=True) as one, whole_file(path, unique=True) as other:
        one.write(b"1" * 10)
        other.write(b"2" * 5)
    assert content(tmp_path) == {"a.bin": "1" * 10}, "the one that ended last"


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_appears_when_it_is_whole(tmp_path, replace):
    path = tmp_path / "above" / "model"
    with pytest.raises(Stop), whole_folder(path, replace) as draft:
        (draft / "half").write_text("half")
        raise Stop
    assert content(tmp_path) == {}
    with whole_folder(path, replace) as draft:
        (draft / "inner").mkdir()
        (draft / "inner" / "a").write_text("a")
        assert not path.exists() and draft.parent == path.parent
    assert content(tmp_path) == {"above/model/inner/a": "a"}
    assert [entry.name for entry in path.parent.iterdir()] == ["model"]


def test_a_former_folder_gives_way_when_the_new_one_is_whole(tmp_path):
    path = tmp_path / "model"
    for name in ("model", "model.part", "model.old"):  # the latter two as a killed writer leaves them
        (tmp_path / name).mkdir()
        (tmp_path / name / "former").write_text(name)
    with pytest.raises(Stop), whole_folder(path, replace=True):
        raise Stop
    assert (path / "former").read_text() == "model"
    with whole_folder(path, replace=True) as draft:
        (draft / "new").write_text("new")
    assert content(tmp_path) == {"model/new": "new"} and len(list(tmp_path.iterdir())) == 1


def test_nothing_that_is_there_is_lost_unless_it_is_to_be_replaced(tmp_path):
    for name in ("out", "out.part", "out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text(name)
    before = content(tmp_path)
    with pytest.raises(OSError), whole_folder(tmp_path / "out") as draft:
        (draft / "new").write_text("new")
    assert content(tmp_path) == before
    (tmp_path / "out" / "mine").unlink()
    with whole_folder(tmp_path / "out") as draft:
        (draft / "new").write_text("new")
    assert content(tmp_path) == {"out/new": "new", "out.part/mine": "out.part", "out.old/mine": "out.old"}


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path, usual_permissions):
    of_file, of_folder = usual_permissions
    with whole_folder(tmp_path / "model") as draft:
        (draft / "inner").mkdir()
        (draft / "inner" / "private").touch(0o600)
    write_json(tmp_path / "a.json", 1)
    for path in (tmp_path / "model" / "inner" / "private", tmp_path / "a.json"):
        assert path.stat().st_mode & 0o777 == of_file
    for path in (tmp_path / "model", tmp_path / "model" / "inner"):
        assert path.stat().st_mode & 0o777 == of_folder


def test_the_disk_has_all_of_a_folder_before_it_has_its_name(tmp_path, monkeypatch):
    order, rename, fsync = [], os.rename, os.fsync
    monkeypatch.setattr("os.fsync", lambda handle: (order.append("bytes"), fsync(handle)))
    monkeypatch.setattr("os.rename", lambda *names: (order.append("name"), rename(*names)))
    with whole_folder(tmp_path / "model") as draft:
        (draft / "a").write_text("a")
    assert order == ["bytes", "bytes", "name", "bytes"], "the file, its folder, and what the folder lies in"


def test_json_is_for_people_of_any_language(tmp_path):
    value = {"text": "杯子", "numbers": [1, 2.5, None]}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value and "杯子" in text and text.endswith("}\n") and '\n  "text"' in text
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"object": object()})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


def test_only_one_holds_a_lock(tmp_path):
    first = locked(tmp_path / "lock")
    assert first is not None and locked(tmp_path / "lock") is None
    first.close()
    with locked(tmp_path / "lock", wait=True) as again:
        assert again is not None and locked(tmp_path / "lock") is None
    with pytest.raises(OSError):
        locked(tmp_path / "missing" / "lock")
