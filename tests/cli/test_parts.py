"""Which accelerator a process of several takes."""

from argparse import Namespace

import pytest

from pam_kit.cli.parts import own_device
from pam_kit.inference.shard import Shard

NONE = Namespace(device=None)


@pytest.fixture
def machine(monkeypatch):
    """``machine(cards, LOCAL_RANK="1")``: so many cards, and these variables and no other that a launcher sets."""

    def made(cards: int, **environment: str) -> None:
        for name in ("LOCAL_RANK", "SLURM_LOCALID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("torch.cuda.is_available", lambda: cards > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: cards)

    return made


@pytest.mark.parametrize(
    ("cards", "variable", "number", "expected"),
    [
        (4, "LOCAL_RANK", 0, "cuda:0"),
        (4, "LOCAL_RANK", 3, "cuda:3"),
        (2, "LOCAL_RANK", 3, "cuda:1"),  # more processes than cards share them
        (4, "SLURM_LOCALID", 2, "cuda:2"),
        (0, "LOCAL_RANK", 3, None),
    ],
)
def test_each_process_takes_the_card_of_its_number_on_its_machine(machine, cards, variable, number, expected):
    machine(cards, **{variable: str(number)})
    # On a second machine numbers begin anew, while parts go on.
    assert own_device(NONE, Shard(number + 1, 8)) == own_device(NONE, Shard(number + 1 + 4, 8)) == expected


def test_one_process_and_a_named_device_are_left_as_they_are(machine):
    machine(4)
    assert own_device(NONE, Shard(2, 8)) is None, "no launcher says which is its own"
    machine(4, LOCAL_RANK="3")
    assert own_device(NONE, Shard()) is None
    assert own_device(Namespace(device="cuda:1"), Shard(4, 4)) == "cuda:1"
