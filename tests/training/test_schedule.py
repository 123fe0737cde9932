"""Three stages on pictures and clips: each starts where the one before ended, and a killed schedule goes on."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pam_kit.checkpoints import model_folder
from pam_kit.contracts import PromptBatch
from pam_kit.errors import CheckpointError, PamKitError, RecipeError
from pam_kit.model import RegionVLM
from pam_kit.recipe import load_schedule
from pam_kit.training.fit import fit
from pam_kit.training.plan import perceived_bytes, plan
from pam_kit.training.schedule import _newest, fit_schedule

STAGES = """
name: small_pam
model:
  backbone:
    name: sam2
    size: tiny
    image_size: 64
    overrides:
      image_encoder.trunk.embed_dim: 8
      image_encoder.trunk.stages: [1, 1, 2, 1]
      image_encoder.trunk.global_att_blocks: [3]
      image_encoder.trunk.num_heads: 1
      image_encoder.neck.backbone_channel_list: [64, 32, 16, 8]
      memory_attention.num_layers: 1
      memory_attention.layer.dim_feedforward: 32
  perceiver: {name: pam, num_semantic_tokens: 3, mlp_dim: 32}
  projector: pam
  decoder:
    {name: causal_lm, architecture: qwen2, hidden_size: 32, num_layers: 2, num_heads: 4, vocab_size: 300,
     max_length: 512, template: plain}
data:
  train: {name: micro, num_samples: 6, seed: 0}
  tasks: {recognize: 1, caption: 1}
  regions_per_image: 2
  clip_frames: 3
  num_workers: 0
train:
  trainable: [perceiver, projector, prefix]
  max_steps: 2
  learning_rate: 1e-2
  global_batch_size: 2
  device_batch_size: 1
  checkpoint_every: 1
  loggers: [csv]
  accelerator: cpu
  devices: 1
  log_every: 1
schedule:
  - name: images
  - name: clips
    data: {train: {name: clips, path: CLIPS}}
  - name: both
    data: {mixed_in: {clips: {dataset: {name: clips, path: CLIPS}, share: 0.5}}}
    train: {trainable: [perceiver, projector, prefix, decoder], max_steps: 4}
"""


@pytest.fixture
def schedule(tmp_path):
    """``schedule(*overrides)`` -> three stages of a PAM of 32 channels; the clips are a bright square that walks."""
    lines = []
    for number in range(3):
        frames = []
        for frame in range(2 + number):
            picture = np.full((48, 64, 3), 40, dtype=np.uint8)
            picture[10:30, 5 + 4 * frame : 25 + 4 * frame] = (200, 60 * number, 30)
            frames.append(f"{number}_{frame}.png")
            Image.fromarray(picture).save(tmp_path / frames[-1])
        region = {"id": "a", "box": [5, 10, 25, 30], "texts": {"caption": {"en": f"The square {number} walks."}}}
        lines.append(json.dumps({"frames": frames, "regions": [region]}))
    clips = tmp_path / "clips.jsonl"
    clips.write_text("\n".join(lines), encoding="utf-8")
    file = tmp_path / "small_pam.yaml"
    file.write_text(STAGES.replace("CLIPS", str(clips)), encoding="utf-8")
    return lambda *overrides: load_schedule(file, overrides)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def changed(before: dict, after: dict) -> set[str]:
    """Which parts of the model, and which of their pieces only clips reach, differ."""
    names = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {name.split(".")[0] for name in names}
    return parts | {piece for piece in ("narrow", "frame_newline") if any(piece in name for name in names)}


def test_every_stage_trains_its_parts_and_a_schedule_goes_on(schedule, tmp_path):
    torch.manual_seed(0)
    said: list[str] = []
    last = fit_schedule(schedule(), tmp_path / "runs", say=said.append)
    folder = tmp_path / "runs" / "small_pam"
    assert last == folder / "both"
    assert json.loads((folder / "schedule.json").read_text())["ended"] == {n: n for n in ("images", "clips", "both")}
    assert model_folder(folder) == last / "model", "a schedule's folder stands for its last stage"
    images, clips, both = (weights(folder / name) for name in ("images", "clips", "both"))
    assert changed(images, clips) == {"perceiver", "projector", "prefix", "narrow", "frame_newline"}
    assert changed(clips, both) == {"perceiver", "projector", "prefix", "decoder", "narrow", "frame_newline"}
    assert any("stage 2 of 3, clips" in line for line in said)

    with pytest.raises(RecipeError, match="learning_rate was 0.01 and is now 0.5"):
        fit_schedule(schedule("train.learning_rate=0.5"), tmp_path / "runs", resume=True, say=said.append)

    # As if killed in the last stage, behind its third step.
    for file in sorted((last / "checkpoints").glob("*.ckpt"))[-1:]:
        file.unlink()
    (last / "model" / "model.safetensors").unlink()
    (folder / "schedule.json").write_text(json.dumps({"ended": {"images": "images", "clips": "clips"}}))
    said.clear()
    assert fit_schedule(schedule(), tmp_path / "runs", resume=True, say=said.append) == last
    assert sum("ended before" in line for line in said) == 2
    assert all(torch.equal(value, both[name]) for name, value in weights(last).items())


def test_a_stage_alone_starts_from_another_run(schedule, tmp_path):
    images, clips, _ = schedule().stages
    first = fit(images, tmp_path / "runs", say=lambda _: None)
    clips.init_from = str(first)
    clips.train.max_steps = 1
    second = fit(clips, tmp_path / "runs", say=lambda _: None)
    assert changed(weights(first), weights(second)) >= {"projector", "narrow"}
    clips.init_from = str(tmp_path / "runs" / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere.*init_from=null"):
        fit(clips, tmp_path / "other", say=lambda _: None)


def test_a_plan_counts_the_tokens_of_clips(schedule):
    images, clips, both = (plan(stage) for stage in schedule().stages)
    # 4 x 4 cells: 2 x 2 tokens for an image, and 1 for each later frame; 3 semantic tokens a frame.
    assert (images.visual_tokens, images.semantic_tokens, images.positions) == (4, 3, 4 + 1 + 3 + 1)
    assert (clips.visual_tokens, clips.semantic_tokens) == (4 + 2 * 1, 9)
    assert clips.positions == (4 + 1 + 3 + 1 + 1) + 2 * (1 + 1 + 3 + 1 + 1)
    assert both.positions == clips.positions and images.trained_parameters < clips.trained_parameters


def test_a_backbone_without_memory_says_so(schedule, tmp_path):
    changes = ("backbone=timm_sam", "backbone.model_name=test_byobnet", "backbone.image_size=64")
    clips = schedule(*changes, "backbone.embed_dim=256").stages[1]
    with pytest.raises(PamKitError, match="cannot follow a region through a clip; set backbone.track=true"):
        fit(clips, tmp_path, say=lambda _: None)


def test_paper_recipes_are_table_8():
    """Trained parts, global batch and learning rate of each stage; 4864 visual and 256 semantic tokens at most."""
    trained = {"pam_3b": [3_295_360 + 11_018_240 + 2 * 2048, 18_515_072], "pam_1_5b": [9_989_248, 14_186_112]}
    for name, numbers in trained.items():
        stages = load_schedule(name, ["data.root=/data"]).stages
        assert [(s.train.global_batch_size, s.train.learning_rate) for s in stages] == [
            (1024, 1e-4),
            (1024, 4e-5),
            (256, 1e-5),
        ]
        assert all((s.train.warmup_ratio, s.train.epochs, s.train.max_steps) == (0.03, 1, None) for s in stages)
        plans = [plan(stage, devices=8) for stage in stages]
        assert [p.trained_parameters for p in plans[:2]] == numbers
        assert [(p.visual_tokens, p.semantic_tokens) for p in plans] == [(1024, 16), (4864, 256), (4864, 256)]
        assert [p.positions for p in plans] == [1042, 5168, 5168]
        assert [p.accumulation for p in plans] == [16, 128, 32]


def test_the_prefix_of_a_clip_is_as_long_as_the_plan_says(schedule):
    """10 positions for the first of 3 frames, with its newlines, and 7 for each later one."""
    stage = schedule("decoder.max_length=64").stages[1]
    torch.manual_seed(0)
    model = RegionVLM.from_recipe(stage)
    frames = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    box = torch.tensor([[[8.0, 8.0], [40.0, 40.0]]])
    prompts = PromptBatch(box, torch.tensor([[2, 3]]), torch.zeros(1, 1, 16, 16), torch.zeros(1, dtype=torch.bool))
    with torch.no_grad():
        _, tokens = model.follow(frames, [0, 1, 2], prompts)
        assert model.prefix(tokens).shape == (1, 10 + 2 * 7, 32)
    assert plan(stage).positions == 10 + 2 * 7


TWO_STAGES = """
schedule:
  - name: first
    train: {max_steps: 1}
  - name: second
    train: {max_steps: 1}
"""
TWO_PROCESSES = (
    "train.accelerator=cpu",
    "train.strategy=ddp",
    "train.devices=2",
    "train.global_batch_size=2",
    "train.device_batch_size=1",
    "train.loggers=[csv]",
    "train.num_threads=1",
    "data.num_workers=0",
)


def test_every_process_waits_for_the_model_that_the_next_stage_starts_from(
    tiny_recipe, tmp_path, in_processes, monkeypatch
):
    """The disk of the first process is slow; the other one must not look for the model before it is there, nor talk."""
    file = tmp_path / "tiny.yaml"
    file.write_text(file.read_text(encoding="utf-8") + TWO_STAGES, encoding="utf-8")
    schedule, write = load_schedule(file, TWO_PROCESSES), save_file

    def late(*given, **named):
        time.sleep(1)
        write(*given, **named)

    def work(rank: int) -> None:
        said: list[str] = []
        fit_schedule(schedule, tmp_path / "runs", say=said.append)
        (tmp_path / f"told-{rank}").write_text("\n".join(said), encoding="utf-8")
        assert fit_schedule(schedule, tmp_path / "runs", resume=True, say=said.append).name == "second"

    monkeypatch.setattr("pam_kit.checkpoints.save.save_file", late)
    in_processes(work)
    assert {path.name for path in (tmp_path / "runs" / "tiny").iterdir()} == {"first", "second", "schedule.json"}
    first, other = ((tmp_path / f"told-{rank}").read_text(encoding="utf-8") for rank in range(2))
    assert "init_from" in first and "stage 2 of 2" in first and other == ""


def test_the_schedule_that_got_on_last_is_resumed(tmp_path):
    """Whatever else happens in the folders, such as an evaluation of an old run."""
    written = {"s": "schedule.json", "s-2": "first/checkpoints/step=4.ckpt", "s-3": "first/checkpoints/step=2.ckpt"}
    for (name, file), age in zip(written.items(), (1000, 3000, 2000), strict=True):
        path = tmp_path / name / file
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (age, age))
    (tmp_path / "s" / "first").mkdir()
    (tmp_path / "s-4").mkdir()
    (tmp_path / "s-5.txt").touch()
    assert _newest(tmp_path, "s").name == "s-2"
    os.utime(tmp_path / "s" / "schedule.json", (4000, 4000))
    assert _newest(tmp_path, "s").name == "s"
    with pytest.raises(CheckpointError, match="there is no run of the schedule t"):
        _newest(tmp_path, "t")


def test_a_plan_counts_what_the_backward_pass_of_a_region_keeps(tiny_recipe):
    recipe = tiny_recipe("perceiver=none", "projector=linear")
    with torch.device("meta"):
        model = RegionVLM.from_recipe(recipe)
    (height, width), channels = model.backbone.grid, model.backbone.embed_dim
    # The inputs of the two linear maps, in four bytes a number: the cells of the picture and two mask tokens.
    assert perceived_bytes(model) == 4 * channels * (height * width + 2)
    recipe = tiny_recipe("train.precision=32-true", "data.regions_per_image=1")
    more = tiny_recipe("train.precision=32-true", "data.regions_per_image=2")
    assert plan(more).device_gib > plan(recipe).device_gib
