"""The same run in 16 bits: it learns, comes close to the losses of 32 bits, and leaves a model that loads."""

import csv

import pytest
import torch

from pam_kit.model import RegionVLM
from pam_kit.training.fit import fit

OPTIONS = (
    "train.trainable=[backbone,perceiver,projector,prefix,decoder]",
    "backbone.freeze_extractor=true",
    "train.activation_checkpointing=true",
    "train.accelerator=cpu",
    "train.devices=1",
    "train.num_threads=1",
    "train.log_every=1",
    "train.loggers=[csv]",
    "train.global_batch_size=2",
    "train.device_batch_size=2",
    "data.num_workers=0",
)


@pytest.fixture
def learn(tiny_recipe, tmp_path):
    """``learn(precision)`` -> losses of two steps, and the run folder."""

    def run(precision: str):
        recipe = tiny_recipe(*OPTIONS, f"train.precision={precision}")
        folder = fit(recipe, tmp_path / precision, say=lambda text: None)
        with open(folder / "logs" / "metrics.csv") as file:
            return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]], folder

    return run


@pytest.mark.filterwarnings("ignore:You passed .*precision='16-mixed'")
def test_16_bits_come_close_to_32(learn):
    """16-mixed is bf16-mixed on a CPU."""
    exact, _ = learn("32-true")
    for precision in ("bf16-mixed", "bf16-true", "16-mixed"):
        losses, folder = learn(precision)
        assert losses == pytest.approx(exact, rel=0.02) and len(losses) == 2 and losses != exact
        weights = RegionVLM.from_pretrained(str(folder)).state_dict()
        assert all(torch.isfinite(value).all() for value in weights.values())
