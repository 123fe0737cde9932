"""A run is given by its folder or by a name on the Hugging Face hub."""

import pytest
import torch

from pam_kit.checkpoints import load_model, model_folder, save_model
from pam_kit.errors import CheckpointError


def test_a_hub_name_is_downloaded(monkeypatch, tiny_model, tiny_recipe, tmp_path):
    model, asked = tiny_model(), []
    target = save_model(tmp_path, model, tiny_recipe())

    def download(name, **options):
        asked.append(name)
        return str(target)

    monkeypatch.setattr("pam_kit.checkpoints.folder.snapshot_download", download)
    loaded, _ = load_model("some-org/pam-3b")
    assert asked == ["some-org/pam-3b"]
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


def test_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="some-org/pam-3b is no folder here, .* cannot be fetched"):
        load_model("some-org/pam-3b")


@pytest.mark.parametrize("name", ["runs/pam_tiny", "runs", "a/b/c", "/some/run"])
def test_a_path_is_not_looked_for_on_the_hub(monkeypatch, tmp_path, name):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pam_kit.checkpoints.folder.snapshot_download", lambda *_a, **_k: pytest.fail("was asked for"))
    with pytest.raises(CheckpointError, match=f"{name} is not a finished run"):
        model_folder(name)
