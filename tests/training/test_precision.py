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
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed"])
def test_16_bits_come_close_to_32(learn, precision):
    """16-mixed is bf16-mixed on a CPU."""
    (exact, start), (losses, folder) = learn("32-true"), learn(precision)
    assert losses == pytest.approx(exact, rel=0.02) and len(losses) == 2 and losses != exact
    before, after = (RegionVLM.from_pretrained(str(one)).state_dict() for one in (start, folder))
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(before[name], value) for name, value in after.items() if "decoder" in name)
