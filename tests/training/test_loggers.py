"""Where the log of a run goes, read back with the tools that people read it with."""

import csv
import sys

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pam_kit.errors import MissingPackageError, RecipeError
from pam_kit.recipe import resolved_yaml
from pam_kit.training.fit import fit
from pam_kit.training.loggers import log_pictures, make_loggers

CPU = ("train.accelerator=cpu", "train.devices=1", "train.num_threads=1", "data.num_workers=0")


def events(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0}).Reload()


def text(found: EventAccumulator, tag: str) -> str:
    (event,) = found.Tensors(tag)
    return event.tensor_proto.string_val[0].decode()


def test_a_run_is_logged_to_csv_and_tensorboard(tiny_recipe, tmp_path):
    recipe = tiny_recipe(
        *CPU, "train.max_steps=4", "train.global_batch_size=4", "train.device_batch_size=2", "train.log_every=2"
    )
    said = []
    folder = fit(recipe, tmp_path / "runs", say=said.append)
    with open(folder / "logs" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "3"]
    rates = ("samples_per_second", "tokens_per_second", "supervised_tokens_per_second", "seconds_per_step")
    names = [f"throughput/{name}" for name in (*rates, "data_wait_share")]
    names += ["loss", "loss/text", "loss/text/recognize", "memory/peak_mib"]
    names += [f"learning_rate/{part}" for part in ("perceiver", "projector", "prefix")]
    assert set(names) <= rows[0].keys()
    found = events(folder / "logs")
    for name in names:
        logged = [(scalar.step, scalar.value) for scalar in found.Scalars(name)]
        assert logged == [(int(row["step"]), pytest.approx(float(row[name]))) for row in rows if row[name]], name
    for row in rows:
        seconds = float(row["throughput/seconds_per_step"])
        assert float(row["throughput/samples_per_second"]) * seconds == pytest.approx(4, rel=1e-3)
        assert 0 < float(row["throughput/data_wait_share"]) < 1
        assert float(row["throughput/tokens_per_second"]) > float(row["throughput/supervised_tokens_per_second"]) > 0
    assert resolved_yaml(recipe) in text(found, "recipe/text_summary")
    assert any(line.startswith("4 steps in 0:00:") and line.endswith("samples/s") for line in said)


def test_the_learning_rate_is_the_one_that_the_step_used(tiny_recipe, tmp_path):
    """Without a warmup the first step has the full rate, the second of two half of it: a cosine."""
    options = ("train.warmup_ratio=0", "train.learning_rate=0.001", "train.log_every=1")
    factors = "train.learning_rate_factors={projector: 0.5}"
    recipe = tiny_recipe(*CPU, *options, factors, "train.max_steps=3")
    folder = fit(recipe, tmp_path / "runs", say=lambda line: None)
    found = events(folder / "logs")
    rates = {part: [s.value for s in found.Scalars(f"learning_rate/{part}")] for part in ("perceiver", "projector")}
    assert rates["perceiver"] == pytest.approx([1e-3, 1e-3, 5e-4])
    assert rates["projector"] == pytest.approx([5e-4, 5e-4, 2.5e-4])


def test_former_logs_stay(tiny_recipe, tmp_path):
    for expected in ("logs", "logs-2"):
        written, drawn = make_loggers(tiny_recipe(), tmp_path)
        assert isinstance(written, CSVLogger) and isinstance(drawn, TensorBoardLogger)
        for logger in (written, drawn):
            assert logger.log_dir == str(tmp_path / expected)
            logger.log_metrics({"loss": 1.0}, step=0)
            logger.save()
    assert all((tmp_path / name / "metrics.csv").is_file() for name in ("logs", "logs-2"))


def test_no_warning_of_a_folder_that_is_there_already(tiny_recipe, tmp_path, recwarn):
    for logger in make_loggers(tiny_recipe("train.loggers=[tensorboard,csv]"), tmp_path):
        logger.log_metrics({"loss": 1.0}, step=0)
        logger.save()
    assert not [warning for warning in recwarn if "exists and is not empty" in str(warning.message)]


@pytest.mark.parametrize(
    ("names", "kinds"), [("[]", []), ("[tensorboard]", [TensorBoardLogger]), ("[csv]", [CSVLogger])]
)
def test_only_what_is_named_logs(tiny_recipe, tmp_path, names, kinds):
    assert [type(logger) for logger in make_loggers(tiny_recipe(f"train.loggers={names}"), tmp_path)] == kinds


def test_an_unknown_logger(tiny_recipe, tmp_path):
    with pytest.raises(RecipeError, match="loggers.*'tensorbord'.*tensorboard"):
        tiny_recipe("train.loggers=[tensorbord]")
    recipe = tiny_recipe()
    recipe.train.loggers = ["csv", "mlflow"]
    with pytest.raises(RecipeError, match=r"train.loggers: unknown logger 'mlflow'.*csv, tensorboard, wandb"):
        make_loggers(recipe, tmp_path)


def test_wandb_without_its_package(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pam-kit\[wandb\]'"):
        make_loggers(tiny_recipe("train.loggers=[csv,wandb]"), tmp_path)
    assert not (tmp_path / "logs").exists()


def test_wandb_offline(tiny_recipe, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'pam-kit[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    recipe = tiny_recipe("train.loggers=[wandb]", "train.learning_rate=0.125")
    (logger,) = loggers = make_loggers(recipe, tmp_path)
    try:
        config = dict(logger.experiment.config)
        logger.log_metrics({"loss": 1.0}, step=0)
        log_pictures(loggers, "previews", [Image.new("RGB", (8, 8))], step=1)
    finally:
        logger.finalize("success")
    assert wandb.run is None
    assert config["train"]["learning_rate"] == 0.125 and config["model"]["decoder"]["name"] == "causal_lm"
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_pictures_are_shown_as_they_are(tiny_recipe, tmp_path):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)) for _ in range(2)]
    loggers = make_loggers(tiny_recipe(), tmp_path)
    log_pictures(loggers, "previews", pictures, step=7)
    loggers[1].finalize("success")
    found = events(tmp_path / "logs")
    assert sorted(found.Tags()["images"]) == ["previews/1", "previews/2"]
    for number, picture in enumerate(pictures, start=1):
        (event,) = found.Images(f"previews/{number}")
        file = tmp_path / f"{number}.png"
        file.write_bytes(event.encoded_image_string)
        assert event.step == 7 and np.array_equal(np.asarray(Image.open(file)), np.asarray(picture))
