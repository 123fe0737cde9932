"""One training step in a process of its own, its time and memory measured: what ``step_benchmark`` asks."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from safetensors.torch import save_file
from torch import Tensor

from pam_kit.bench.one_thread import one_thread
from pam_kit.bench.peak_memory import PeakMemory
from pam_kit.bench.plain_step import plain_loss
from pam_kit.bench.step_benchmark import KEEP, StepSizes
from pam_kit.bench.workers import Told, serve
from pam_kit.contracts import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PromptBatch, Questions, RegionBatch, VisionBackbone
from pam_kit.model import RegionVLM
from pam_kit.registry import find
from pam_kit.sections import TrainSection
from pam_kit.training.feature_cache import FeatureCache
from pam_kit.training.stage import freeze_all_but, keep_frozen_parts_in_eval, parameter_groups

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


class Step:
    """The model, the batch and the optimiser, the same in every process.

    Args:
        variant: ``plain``, ``kit`` or ``kept``: the kit with features that ``keep`` has left in ``cache_folder``.
    """

    def __init__(self, variant: str, sizes: StepSizes, cache_folder: str):
        self._model = build_model(sizes)
        self._batch = build_batch(sizes, self._model.backbone)
        self._loss_of = _variants(cache_folder)[variant]
        self._optimizer = torch.optim.AdamW(parameter_groups(self._model, TrainSection()))

    def facts(self) -> Told:
        """What is measured, and on how many threads."""
        parameters = sum(parameter.numel() for parameter in self._model.decoder.parameters())
        return {"parameters": parameters, "threads": torch.get_num_threads()}

    def take(self, gradients: str | None = None) -> Measurement:
        """Take the first step after the optimiser has its state; another one would find memory that this one has left.

        Args:
            gradients: a safetensors file for the gradients of all that learns.
        """
        _make_state(self._optimizer)
        gc.collect()
        with PeakMemory() as memory:
            started, cpu_started = time.perf_counter(), time.process_time()
            loss = self._loss_of(self._model, self._batch)
            loss.backward()
            self._optimizer.step()
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        if gradients is not None:
            found = {name: p.grad for name, p in self._model.named_parameters() if p.grad is not None}
            save_file(found, gradients)
        return Measurement(seconds, cpu_seconds, memory.held, memory.more, loss.item())


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


def _get_ready(job: Told) -> tuple[Told, Callable[[Told], Told]]:
    sizes = StepSizes(**job["sizes"])
    if job["variant"] == KEEP:
        keep(sizes, job["cache_folder"])
        return {}, lambda _: {}
    with one_thread():
        step = Step(job["variant"], sizes, job["cache_folder"])
    return step.facts(), lambda asked: asdict(step.take(**asked))


if __name__ == "__main__":
    serve(_get_ready)
