"""A strategy's name in the recipe becomes one of Lightning's, or an error that helps."""

import pytest
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

from pam_kit.errors import MissingPackageError, RecipeError
from pam_kit.sections import LossWeights, TrainSection
from pam_kit.training import strategies
from pam_kit.training.strategies import FullyShardedStrategy, make_strategy


def test_what_lightning_knows_is_passed_on():
    others = set(StrategyRegistry.available_strategies()) - {"ddp"}
    for name in others - {name for name in others if name.startswith("deepspeed")}:
        assert make_strategy(TrainSection(strategy=name)) == name


@pytest.mark.parametrize(
    ("devices", "nodes", "kind"),
    [(1, 1, str), ("auto", 1, str), ("0,", 1, str), (2, 1, DDPStrategy), ("0,1", 1, DDPStrategy), (1, 2, DDPStrategy)],
)
def test_auto_is_ddp_on_several_devices(devices, nodes, kind):
    section = TrainSection(devices=devices, num_nodes=nodes, accelerator="cpu")
    assert isinstance(make_strategy(section), kind)


def test_auto_counts_gpus(monkeypatch):
    monkeypatch.setattr(strategies.torch.cuda, "device_count", lambda: 8)
    assert isinstance(make_strategy(TrainSection()), DDPStrategy)
    assert make_strategy(TrainSection(accelerator="cpu")) == "auto"


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({}, False),
        ({"join_at": {"perceiver": 0.0, "decoder": 0.5}}, True),
        ({"loss": LossWeights(text=0, alignment=1)}, True),
    ],
)
def test_ddp_looks_for_unused_parameters_only_where_parts_are_idle(options, idle):
    arguments = make_strategy(TrainSection(strategy="ddp", **options))._ddp_kwargs
    assert arguments == {"find_unused_parameters": idle, "gradient_as_bucket_view": True}


def test_fsdp2_shards_over_all_devices_and_writes_one_file():
    strategy = make_strategy(TrainSection(strategy="FSDP2"))
    assert isinstance(strategy, FullyShardedStrategy) and not strategy._save_distributed_checkpoint


@pytest.mark.parametrize("precision", ["16-mixed", "64-true"])
def test_fsdp2_refuses_what_it_cannot_scale(precision):
    with pytest.raises(RecipeError, match=f"train.precision={precision} cannot be sharded.*bf16-mixed"):
        make_strategy(TrainSection(strategy="fsdp2", precision=precision))


@pytest.mark.parametrize(
    ("name", "near"), [("fspd2", "fsdp2"), ("dpp", "ddp"), ("deepspeed_stage2", "deepspeed_stage_2")]
)
def test_an_unknown_name(name, near):
    with pytest.raises(RecipeError, match=f"train.strategy: unknown strategy '{name}'; did you mean '{near}'"):
        make_strategy(TrainSection(strategy=name))


def test_deepspeed_is_an_extra(monkeypatch):
    monkeypatch.setattr(strategies, "find_spec", lambda name: None)
    with pytest.raises(
        MissingPackageError, match=r"deepspeed_stage_2 needs DeepSpeed: pip install 'pam-kit\[deepspeed\]'"
    ):
        make_strategy(TrainSection(strategy="deepspeed_stage_2"))
    monkeypatch.setattr(strategies, "find_spec", lambda name: object())
    assert make_strategy(TrainSection(strategy="deepspeed_stage_2")) == "deepspeed_stage_2"
