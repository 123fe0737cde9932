"""How the processes of a run agree on what the first one decides, before they are connected and after."""

import pytest
import torch

from pam_kit.errors import RecipeError
from pam_kit.sections import TrainSection
from pam_kit.training import processes
from pam_kit.training.processes import decided_by_first, is_first_process, refuse_lonely_nodes


def test_a_lone_process_decides_by_itself():
    assert is_first_process()
    assert [decided_by_first(lambda word=word: word) for word in "ab"] == ["a", "b"]


def test_a_process_that_lightning_started_inherits_the_decision(monkeypatch):
    """It runs the same program from the start, with the environment of the first one."""
    decided_by_first(lambda: "runs/a-2")
    monkeypatch.setattr(processes, "_decisions", iter([next(processes._decisions) - 1]))
    monkeypatch.setattr(processes.rank_zero_only, "rank", 1)
    assert not is_first_process()
    assert decided_by_first(lambda: pytest.fail("only the first process decides")) == "runs/a-2"


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_processes_that_start_alone_are_told(in_processes, tmp_path, launcher):
    def work(rank: int) -> None:
        assert is_first_process() == (rank == 0)
        words = [decided_by_first(lambda: f"{rank} before"), decided_by_first(lambda: f"{rank} again")]
        # The store is the one through which they are connected later.
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        words.append(decided_by_first(lambda: f"{rank} connected"))
        (tmp_path / f"words-{rank}").write_text("\n".join(words))

    in_processes(work, launcher=launcher)
    for rank in range(2):
        assert (tmp_path / f"words-{rank}").read_text().split("\n") == ["0 before", "0 again", "0 connected"]


def test_several_nodes_need_a_launcher(monkeypatch):
    refuse_lonely_nodes(TrainSection(num_nodes=1))
    with pytest.raises(RecipeError, match="train.num_nodes=2 needs what starts processes on every node: torchrun"):
        refuse_lonely_nodes(TrainSection(num_nodes=2))
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    refuse_lonely_nodes(TrainSection(num_nodes=2))
