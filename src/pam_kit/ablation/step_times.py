"""How long a training step of each variant takes, all variants in turn in one process, so that all meet the same noise.

The model, the batch and the optimiser are those of the variant's last stage, trained; kept features are kept. A step is
forward, backward and optimiser; reading samples is left out.
"""

import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from pam_kit.ablation.chains import Chain
from pam_kit.ablation.execution import model_of
from pam_kit.checkpoints import load_model
from pam_kit.data.prepare import Geometry
from pam_kit.data.training import TrainingView, collate_training
from pam_kit.errors import PamKitError
from pam_kit.training.loading import training_sets
from pam_kit.training.module import RegionTrainer
from pam_kit.training.steps import Packet

# The first ones fill caches and make the optimiser's state.
WARM_UP, MEASURED = 3, 12


def measure(chains: dict[str, Chain], out: Path, measured: int = MEASURED) -> dict:
    """Milliseconds of a step by variant, the median of ``measured`` ones after ``WARM_UP``, and how they were taken.

    Args:
        chains: variant -> one of its chains, whose last run is trained.
        measured: steps of each variant.
    """
    steps = {variant: _steps(chain, out) for variant, chain in chains.items()}
    taken: dict[str, list[float]] = {variant: [] for variant in steps}
    for _ in range(WARM_UP + measured):
        for variant, endless in steps.items():
            taken[variant].append(1000 * next(endless))
    times = {variant: median(values[WARM_UP:]) for variant, values in taken.items()}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {"milliseconds": times, "steps": measured, "device": device}


def _steps(chain: Chain, out: Path) -> Iterator[float]:
    """Seconds of one step after the other, always on the same batch."""
    model, recipe = load_model(model_of(chain.last, out))
    section = recipe.train
    # All that learns learns at once, as in the last part of a stage.
    recipe = replace(recipe, train=replace(section, join_at={}, log_every=10**9))
    if section.num_threads:
        torch.set_num_threads(section.num_threads)
    mixture = training_sets(recipe)
    task = RegionTrainer(recipe, model, 10**6, mixture.clips)
    device = torch.device("cuda" if torch.cuda.is_available() and section.accelerator != "cpu" else "cpu")
    task.to(device)
    geometry = Geometry.of(model.backbone)
    view = TrainingView(mixture, recipe.data, geometry, recipe.seed)
    batch, broken = collate_training([view[i] for i in range(section.device_batch_size)], geometry)
    if batch is None:
        raise PamKitError(f"no sample of the first batch of {recipe.name} can be used: {broken[0]}")
    own = task.counts(batch)
    packet = Packet(batch.to(device), [], own=own, step=own)
    optimizer = task.configure_optimizers()["optimizer"]
    while True:
        _finish(device)
        started = time.perf_counter()
        with warnings.catch_warnings():
            # There is no log to write to.
            warnings.filterwarnings("ignore", message=".*`self.log.*")
            loss = task.training_step(packet, 0)
        if loss is None:
            raise PamKitError(f"a step of {recipe.name} has no loss, so there is no time to take")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        _finish(device)
        yield time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
