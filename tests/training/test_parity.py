"""The parity command: it holds on golden files, and notices whatever is wrong with one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pam_kit.components.backbones import sam_decoding
from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.contracts import Questions
from pam_kit.training.parity import sam2, sam2_video
from pam_kit.training.parity.__main__ import main
from pam_kit.training.parity.formula import formula_input, formula_weight
from pam_kit.training.parity.golden_file import GoldenFile
from pam_kit.training.parity.kinds import check_file
from pam_kit.training.parity.language import recorded_positions
from pam_kit.training.parity.layout import model_of_shapes
from pam_kit.training.parity.report import close, exact

OWN = Path(__file__).parents[1] / "golden"
SHARED = Path(__file__).parents[3] / "shared" / "golden" / "public"


def names_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def copied(tmp_path):
    """``copied("perceiver/x.safetensors", ...)`` -> a folder with copies of some of our golden files."""

    def copy(*names: str) -> Path:
        for name in names:
            target = tmp_path / "golden" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(OWN / "public" / name, target)
        return tmp_path / "golden"

    return copy


def rewrite(path: Path, tensors: dict | None = None, **about: str) -> None:
    """The file with other tensors or other metadata; a tensor of None is left out."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    changed = {name: value for name, value in {**load_file(path), **(tensors or {})}.items() if value is not None}
    save_file(changed, path, {**metadata, **about})


@pytest.mark.parametrize("name", names_below(OWN / "public"))
def test_our_golden_files_hold(name):
    report = check_file(GoldenFile(OWN / "public", name))
    assert report.ok, report.line()
    assert report.line().startswith("ok") and name in report.line()


def test_our_golden_files_are_what_their_script_writes(tmp_path):
    subprocess.run([sys.executable, OWN / "make.py", tmp_path], check=True)
    assert names_below(tmp_path) == names_below(OWN / "public")
    for name in names_below(tmp_path):
        if name.endswith(".json"):
            assert (tmp_path / name).read_text("utf-8") == (OWN / "public" / name).read_text("utf-8")
            continue
        made, stored = load_file(tmp_path / name), load_file(OWN / "public" / name)
        assert made.keys() == stored.keys()
        for key, value in made.items():
            torch.testing.assert_close(value, stored[key], atol=1e-6, rtol=0)


def released_files() -> list[str]:
    return names_below(SHARED) if SHARED.is_dir() else []


@pytest.mark.parametrize("name", released_files())
def test_the_released_golden_files_hold(name):
    report = check_file(GoldenFile(SHARED, name))
    assert report.ok, report.line()


def test_the_released_golden_files_are_there():
    if not SHARED.is_dir():
        pytest.skip(f"golden data ({SHARED}) are absent")
    assert len(names_below(SHARED)) > 20


def test_the_formula_in_closed_form():
    """The CRC-32 of "hello" is 3610A686; numpy's generator is seeded with it and the file's seed."""
    z = np.random.RandomState(0x3610A686 + 7).standard_normal(4)
    np.testing.assert_array_equal(formula_weight("hello", (4,), 7).numpy(), (0.1 * z).astype(np.float32))
    np.testing.assert_array_equal(formula_weight("hello", (2, 2), 7).flatten().numpy(), (z / 2**0.5).astype(np.float32))
    bias, unit = formula_weight("x.bias", (4,), 7), formula_weight("sem_tokens.weight", (4, 1), 7)
    assert bias.abs().max() < 0.1 < unit.abs().max()
    assert abs(formula_weight("norm.weight", (1000,), 7).mean() - 1) < 0.02
    assert not torch.equal(formula_input("hello", (4,), 7), formula_weight("hello", (4,), 7))


PERTURBED = [
    ("perceiver/c32_sem4_hw8.safetensors", "sem_tokens_out"),
    ("perceiver/c32_sem4_hw8.safetensors", "corrected_rowmajor_quarter"),
    ("perceiver/c8_sem16_hw4_b2_explicit.safetensors", "weights.proj.bias"),
    ("projectors/mlp_h16.safetensors", "sem_out"),
    ("sequence/image_batch2.safetensors", "logits_rows"),
    ("sequence/image_batch2.safetensors", "labels"),
    ("sequence/video_18frames.safetensors", "inputs_embeds"),
]


@pytest.mark.parametrize(("name", "tensor"), PERTURBED)
def test_a_perturbed_tensor_fails_by_name(copied, name, tensor, capsys):
    folder = copied(name)
    value = load_file(folder / name)[tensor].clone()
    value.view(-1)[-1] += 1 if value.dtype == torch.int64 else 1e-3
    rewrite(folder / name, {tensor: value})
    assert main([str(folder)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("FAIL") and f"{tensor.partition('.')[0]}" in out.partition("wrong: ")[2].partition(";")[0]


def test_positions_are_those_that_the_language_model_counts(copied, capsys, monkeypatch):
    def doubled(decoder, embeddings, mask):
        positions = 2 * torch.arange(embeddings.shape[1])[None]
        return decoder.lm(inputs_embeds=embeddings, attention_mask=mask.long(), position_ids=positions).logits

    monkeypatch.setattr("pam_kit.training.parity.sequence.logits_of", doubled)
    assert main([str(copied("sequence/image_batch2.safetensors"))]) == 1
    assert "position_ids_internal" in capsys.readouterr().out.partition("wrong: ")[2]


def test_training_leaves_positions_to_the_language_model():
    """It hands over neither positions nor a mask; rows are filled up at the right, so columns are positions."""
    decoder = CausalLM(hidden_size=32, num_layers=2, num_heads=4, vocab_size=320)
    decoder.learn_vocabulary(["a red cup", "what is it?"])
    questions = Questions(torch.tensor([0, 1]), ["what is it?"] * 2, ["a red cup"] * 2, [""] * 2, ["en"] * 2)
    with recorded_positions(decoder) as found:
        decoder([torch.randn(length, 32) for length in (3, 4)], questions)
    assert found and all(torch.equal(one, torch.arange(one.shape[-1])[None]) for one in found)


@pytest.mark.parametrize("check", [sam2, sam2_video])
def test_the_stability_score_that_is_compared_is_the_kits(check):
    """A score of the check's own would hold whatever the kit's does."""
    assert check.stability_score is sam_decoding.stability_score


def test_a_tensor_that_nothing_knows_fails(copied, capsys):
    name = "projectors/mlp_h16.safetensors"
    folder = copied(name)
    rewrite(folder / name, {"surprise": torch.zeros(1)})
    assert main([str(folder)]) == 1
    assert "nothing was compared with surprise" in capsys.readouterr().out


def test_a_missing_tensor_fails(copied, capsys):
    name = "sequence/image_batch2.safetensors"
    folder = copied(name)
    rewrite(folder / name, {"labels": None})
    assert main([str(folder)]) == 1
    assert "lacks the tensor 'labels'" in capsys.readouterr().out


def test_weights_of_another_formula_show_as_such(copied, capsys):
    name = "perceiver/c32_sem4_hw8.safetensors"
    folder = copied(name)
    rewrite(folder / name, seed="99")
    assert main([str(folder)]) == 1
    assert "wrong: weights_sha256" in capsys.readouterr().out


def test_a_changed_conversation_fails(copied, capsys):
    name = "text/chat_cases.json"
    folder = copied(name)
    said = json.loads((folder / name).read_text("utf-8"))
    said["cases"][0]["labels"][3] = 5
    (folder / name).write_text(json.dumps(said), encoding="utf-8")
    assert main([str(folder)]) == 1
    assert "wrong: labels of english" in capsys.readouterr().out


def test_an_unknown_file_fails_and_the_others_are_still_compared(copied, capsys):
    folder = copied("projectors/mlp_h16.safetensors")
    (folder / "notes.txt").write_text("hello")
    (folder / "perceiver").mkdir()
    (folder / "perceiver" / "broken.safetensors").write_bytes(b"no tensors here")
    assert main([str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAIL  notes.txt: wrong: unknown kind of golden file; known: perceiver/*.safetensors")
    assert lines[1].startswith("FAIL  perceiver/broken.safetensors: wrong: it cannot be read as safetensors")
    assert lines[2].startswith("ok    projectors/mlp_h16.safetensors: max difference")
    assert lines[3] == "1 of 3 golden files hold"


def test_a_link_to_a_missing_file_fails(copied, capsys):
    folder = copied("sequence/frame_sampling.json")
    (folder / "sequence" / "gone.json").symlink_to(folder / "nowhere.json")
    assert main([str(folder)]) == 1
    assert "FAIL  sequence/gone.json: wrong: it cannot be read as JSON" in capsys.readouterr().out


def test_nothing_to_compare_is_an_error(tmp_path, copied, capsys):
    assert main([str(tmp_path / "absent")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "holds no file" in capsys.readouterr().err
    assert main([str(copied("sequence/frame_sampling.json")), "--only", "sam2/"]) == 2
    assert "it holds sequence/frame_sampling.json" in capsys.readouterr().err


def test_only_some_files_as_json_lines(capsys):
    assert main([str(OWN / "public"), "--only", "projectors/", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert said["file"] == "projectors/mlp_h16.safetensors" and said["ok"] and said["kind"] == "projector"
    assert {"image_out", "sem_out"} <= {one["what"] for one in said["compared"]}
    assert said["differences"] == [{"max": pytest.approx(5e-7, abs=5e-7), "tolerance": 1e-5}]


def test_the_command_runs_by_its_name():
    command = [sys.executable, "-P", "-m", "pam_kit.training.parity", OWN / "public", "--only", "sequence/frame"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("ok    sequence/frame_sampling.json"), done.stderr


def test_comparisons():
    one = close("x", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
    assert one.difference == 0.5 and not one.ok
    assert close("x", torch.tensor([1.0]), torch.tensor([1.0 + 5e-6])).ok
    assert not close("x", torch.tensor([torch.nan]), torch.tensor([torch.nan])).ok
    assert not close("x", torch.zeros(2, 1), torch.zeros(2)).ok
    assert not exact("x", torch.tensor([3]), torch.tensor([4])).ok
    assert "'a', golden 'b'" in str(exact("x", "a", "b"))


def test_a_sam2_of_unpublished_sizes_is_told_by_its_shapes():
    """The way from shapes to a model is the inverse of the way from a model to shapes."""
    from pam_kit.registry import find
    from pam_kit.released.names import released_name

    overrides = {"image_encoder.trunk.embed_dim": 16, "image_encoder.trunk.stages": [1, 1, 2, 1]}
    overrides |= {"image_encoder.trunk.global_att_blocks": [3], "memory_attention.num_layers": 2}
    overrides |= {"image_encoder.neck.backbone_channel_list": [128, 64, 32, 16]}
    with torch.device("meta"):
        parts = {
            "backbone": find("backbone", "pam").build(size="tiny", overrides=overrides),
            "perceiver": find("perceiver", "pam").build(embed_dim=256, num_semantic_tokens=5),
            "decoder": find("decoder", "causal_lm").build(
                hidden_size=32, num_layers=3, num_heads=4, num_key_value_heads=2, intermediate_size=40, vocab_size=99
            ),
        }
    shapes = {
        released_name(f"{place}.{name}"): tuple(value.shape)
        for place, part in parts.items()
        for name, value in part.state_dict().items()
    }
    found = model_of_shapes(shapes)
    for place, part in parts.items():
        own = {name: tuple(value.shape) for name, value in getattr(found, place).state_dict().items()}
        assert own == {name: tuple(value.shape) for name, value in part.state_dict().items()}
