"""One training step in a process of its own, its time and memory measured: what ``step_benchmark`` starts.

``python -m pam_kit.training.measured_step JOB``: JOB is JSON, and so is the last line it prints.
"""

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from safetensors.torch import save_file
from torch import Tensor

from pam_kit.contracts import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PromptBatch, Questions, RegionBatch, VisionBackbone
from pam_kit.inference.peak_memory import peak, reset_peak
from pam_kit.model import RegionVLM
from pam_kit.registry import find
from pam_kit.sections import TrainSection
from pam_kit.training.feature_cache import FeatureCache
from pam_kit.training.plain_step import plain_loss
from pam_kit.training.stage import freeze_all_but, keep_frozen_parts_in_eval, parameter_groups
from pam_kit.training.step_benchmark import StepSizes

# Stage 2 of the paper, whose image encoder does not learn.
TRAINED = ["perceiver", "projector", "prefix", "decoder"]
_TEXTS = (
    ("What is this?", "a red cup"),
    ("Describe the object in a few words.", "A cup of red clay with a thin handle, half in the shadow of a bottle."),
    ("What is it for?", "Tea or coffee is drunk from it."),
    ("Describe the object.", "A red cup stands on a wooden table, left of a green bottle; its handle points away."),
)


@dataclass
class Measurement:
    """Of one step: seconds, CPU seconds of all threads, bytes held before it, bytes more at its peak, and its loss."""

    seconds: float
    cpu_seconds: float
    held_bytes: int
    peak_bytes: int
    loss: float
    parameters: int
    threads: int


def measure(variant: str, sizes: StepSizes, cache_folder: str, gradients: str | None = None) -> Measurement:
    """Build the model and the batch, the same in every process, and take one step.

    Args:
        variant: ``plain``, ``kit`` or ``kept``: the kit with features that ``keep`` has left in ``cache_folder``.
        gradients: a safetensors file for the gradients of all that learns.
    """
    model = build_model(sizes)
    batch = build_batch(sizes, model.backbone)
    loss_of = _variants(cache_folder)[variant]
    optimizer = torch.optim.AdamW(parameter_groups(model, TrainSection()))
    _make_state(optimizer)
    gc.collect()
    before = reset_peak()
    started, cpu_started = time.perf_counter(), time.process_time()
    loss = loss_of(model, batch)
    loss.backward()
    optimizer.step()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    more = peak() - before
    if gradients is not None:
        save_file({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, gradients)
    parameters = sum(p.numel() for p in model.decoder.parameters())
    return Measurement(seconds, cpu_seconds, before, more, loss.item(), parameters, torch.get_num_threads())


def keep(sizes: StepSizes, cache_folder: str) -> None:
    """Keep the features of the batch, as a first pass over the data does."""
    model = build_model(sizes)
    _cache(cache_folder).segment(model, build_batch(sizes, model.backbone))


def build_model(sizes: StepSizes) -> RegionVLM:
    """The model of ``random_model`` as it learns."""
    model = random_model(sizes, _TEXTS)
    freeze_all_but(model, TRAINED)
    model.train()
    keep_frozen_parts_in_eval(model)
    return model


def random_model(sizes: StepSizes, texts: Sequence[Sequence[str]], template: str = "plain") -> RegionVLM:
    """SAM 2.1 with its smallest encoder, PAM's perceiver and projector, a Qwen2; all of random weights.

    Args:
        texts: what the tokenizer is learned from.
        template: the decoder's chat format.
    """
    torch.manual_seed(0)
    backbone = find("backbone", "sam2").build(size="tiny", image_size=sizes.image_size, frozen=True)
    decoder = find("decoder", "causal_lm").build(
        architecture="qwen2",
        hidden_size=sizes.hidden_size,
        num_layers=sizes.layers,
        num_heads=sizes.heads,
        num_key_value_heads=2,
        intermediate_size=3 * sizes.hidden_size,
        vocab_size=sizes.vocabulary,
        template=template,
    )
    decoder.learn_vocabulary(text for group in texts for text in group)
    width = {"embed_dim": backbone.embed_dim}
    perceiver = find("perceiver", "semantic_perceiver").build(**width)
    projector = find("projector", "pixel_shuffle_mlp").build(**width, output_dim=decoder.embed_dim)
    return RegionVLM(backbone, perceiver, projector, decoder)


def build_batch(sizes: StepSizes, backbone: VisionBackbone) -> RegionBatch:
    """Pictures of noise, a box around each region, and short and long questions in turn."""
    generator = torch.Generator().manual_seed(1)
    side, count = sizes.image_size, sizes.images * sizes.regions
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values * side
    mask_size = (1, 4 * backbone.grid[0], 4 * backbone.grid[1])
    prompts = PromptBatch(
        points=corners,
        labels=torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]).repeat(count, 1),
        masks=torch.zeros(count, *mask_size),
        has_mask=torch.zeros(count, dtype=torch.bool),
    )
    texts = [_TEXTS[i % len(_TEXTS)] for i in range(count * sizes.questions)]
    questions = Questions(
        region_index=torch.arange(count).repeat_interleave(sizes.questions),
        questions=[question for question, _ in texts],
        answers=[answer for _, answer in texts],
        tasks=["describe"] * len(texts),
        languages=["en"] * len(texts),
    )
    return RegionBatch(
        images=torch.randint(0, 256, (sizes.images, 3, side, side), generator=generator, dtype=torch.uint8),
        image_index=torch.arange(sizes.images).repeat_interleave(sizes.regions),
        prompts=prompts,
        questions=questions,
        target_masks=torch.zeros(count, *mask_size),
        has_target=torch.zeros(count, dtype=torch.bool),
    )


def _variants(cache_folder: str) -> dict[str, Callable[[RegionVLM, RegionBatch], Tensor]]:
    def with_kept_features(model: RegionVLM, batch: RegionBatch) -> Tensor:
        regions = _cache(cache_folder).segment(model, batch)
        return model.decoder(model.prefix(model.perceive(regions)), batch.questions).loss

    return {"plain": plain_loss, "kit": lambda model, batch: model(batch).text.loss, "kept": with_kept_features}


def _cache(folder: str) -> FeatureCache:
    return FeatureCache(folder, settings="step benchmark")


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """What the optimiser keeps from its first step on, made by a step along gradients of zero, which moves nothing."""
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    job = json.loads(sys.argv[1])
    sizes = StepSizes(**job["sizes"])
    if job["variant"] == "keep":
        keep(sizes, job["cache_folder"])
        print("{}")
    else:
        print(json.dumps(asdict(measure(job["variant"], sizes, job["cache_folder"], job["gradients"]))))


if __name__ == "__main__":
    main()
