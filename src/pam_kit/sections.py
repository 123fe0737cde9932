"""The typed sections of a recipe. A field's name is its key in YAML, its type and default are checked before anything
is built, and the comment line above it is what `pam-kit recipes --keys` prints. Torch-free.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

SLOTS = ("backbone", "perceiver", "projector", "decoder")
DATASET_SLOT = "dataset"
# What a stage may train: the four slots and the learned separators between a region's tokens.
TRAINABLE_PARTS = (*SLOTS, "prefix")
# What a stream takes over from one clip to the next (PAM, section 3.1): its last frame, what was said, the memory.
STREAM_SWITCHES = ("carry", "history", "memory")
# The words of the questions themselves, among the sets that a vocabulary is learned from.
QUESTION_TEXTS = "questions"


@dataclass
class ComponentChoice:
    """A registered name and its arguments. In YAML, ``decoder: qwen2_5_3b`` is short for ``{name: qwen2_5_3b}``."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class ModelSection:
    backbone: ComponentChoice
    perceiver: ComponentChoice
    projector: ComponentChoice
    decoder: ComponentChoice


@dataclass
class MixedIn:
    """A further training set."""

    # a registered dataset and its arguments
    dataset: ComponentChoice
    # its share of the optimiser steps; data.train has what is left
    share: float


@dataclass
class DataSection:
    # the training set: a registered dataset and its arguments
    train: ComponentChoice
    # a folder that the recipe's datasets refer to as ${data.root}
    root: str | None = None
    # which texts of a region are asked for in training, with their share of the questions
    tasks: dict[str, float] = field(default_factory=lambda: {"recognize": 1.0, "caption": 1.0})
    # languages of the questions, with their share
    languages: dict[str, float] = field(default_factory=lambda: {"en": 1.0, "zh": 1.0})
    # how a region without a prompt of its own is pointed at in training, with the share of each way
    prompts: dict[str, float] = field(default_factory=lambda: {"box": 0.6, "point": 0.3, "mask": 0.1})
    # for this share of a picture's regions two more boxes are asked for, as a tracker does: one that no region answers,
    # with an empty mask, and a loose one around the region; it teaches what it takes to lose and to find an object in a
    # video. Clips are left out of it
    absent_prompts: float = 0.0
    # at most this many regions of a sample, a picture or a clip, a step
    regions_per_image: int = 4
    # at most this many questions about a region a step, of different tasks and languages
    questions_per_region: int = 1
    # where a new vocabulary is learned from besides the training sets, such as a later stage's: names of datasets, with
    # their default arguments, or questions for the words of the questions
    vocabulary_from: list[str] = field(default_factory=list)
    # processes that read samples and draw their prompts and questions
    num_workers: int = 1
    # frames of a clip whose tokens are read; a shorter clip is read whole
    clip_frames: int = 16
    # samples of an optimiser step are alike in length, where a set knows the lengths of its samples, as clips does:
    # there is less padding, and devices wait less for each other
    group_by_length: bool = False
    # a region is tracked through the frames that are read, or through all of its clip, as released PAM does
    clip_tracking: Literal["read", "all"] = "read"
    # further training sets by name; every optimiser step reads one set
    mixed_in: dict[str, MixedIn] = field(default_factory=dict)
    # keep what a frozen backbone makes of a picture and a prompt on disk, for small studies: later passes and runs skip
    # the backbone. Every region then keeps the one prompt that is drawn for it
    cache_features: bool = False
    # where kept features lie; null: features/ in the cache folder of the kit
    cache_folder: str | None = None
    # the run ends when more than this share of the samples is broken
    max_broken_share: float = 0.01


@dataclass
class LossWeights:
    # next-token cross-entropy of the answers
    text: float = 1.0
    # words of the answers read off the semantic tokens without the decoder (0 turns it off); clips are left out of it
    alignment: float = 0.0
    # dice loss of the masks; mask losses are left out where the backbone is frozen
    dice: float = 1.0
    # binary cross-entropy of the masks
    bce: float = 0.0
    # focal loss of the masks
    focal: float = 20.0
    # squared error of the predicted IoU
    iou: float = 1.0
    # cross-entropy of the score that says whether there is an object, where the backbone has a head for it that learns;
    # data.absent_prompts points at nothing
    objectness: float = 0.0


@dataclass
class TrainSection:
    # parts that learn, of backbone, perceiver, projector, prefix, decoder; all others are frozen
    trainable: list[str] = field(default_factory=lambda: ["perceiver", "projector", "prefix"])
    learning_rate: float = 1e-4
    # learning rate of single parts, as a multiple of learning_rate
    learning_rate_factors: dict[str, float] = field(default_factory=dict)
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    # optimiser steps; null derives them from epochs
    max_steps: int | None = None
    epochs: float = 1.0
    # share of the steps in which the learning rate rises
    warmup_ratio: float = 0.03
    # share of the steps after which a part joins in: masks learn before the perceiver joins, and only the alignment of
    # the semantic tokens with words before the decoder does
    join_at: dict[str, float] = field(default_factory=lambda: {"perceiver": 0.0, "decoder": 0.0})
    # questions about a region that the decoder answers a step; null: all. The others still teach the alignment
    decoder_questions: int | None = None
    # tasks whose words the semantic tokens are aligned with; null: all. Long texts would drown the telling words
    alignment_tasks: list[str] | None = None
    # which tokens of a region are aligned with words: the semantic ones; or all, visual ones too, so that perceivers
    # without semantic tokens learn as fast
    alignment_tokens: Literal["semantic", "all"] = "semantic"
    # samples an optimiser step, over all devices; reached by gradient accumulation
    global_batch_size: int = 16
    # samples a device holds at once
    device_batch_size: int = 16
    gradient_clip: float = 1.0
    # auto: bf16 where the device has it, else 32-true; or a Lightning precision name
    precision: str = "auto"
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    # auto, ddp, fsdp2 (shards parameters, gradients and optimiser states), or another Lightning strategy name
    strategy: str = "auto"
    # recompute the decoder's layers in the backward pass: memory for time
    activation_checkpointing: bool = False
    # parts that torch.compile makes faster, of perceiver, projector, decoder
    compile: list[str] = field(default_factory=list)
    # threads torch uses on a CPU; null leaves torch's own choice
    num_threads: int | None = None
    # steps between log lines
    log_every: int = 10
    # where the log goes, of csv, tensorboard, wandb
    loggers: list[str] = field(default_factory=lambda: ["csv", "tensorboard"])
    # steps between pictures of what the model says about a few training regions; null: none
    preview_every: int | None = None
    # steps between checkpoints; null: only at the end
    checkpoint_every: int | None = None
    loss: LossWeights = field(default_factory=LossWeights)


@dataclass
class SplitChoice:
    """A held-out set and how its regions are pointed at."""

    # a registered dataset and its arguments
    dataset: ComponentChoice
    # box, point, mask, whole_image (the prompt is ignored) or given (the sample's own)
    prompts: list[str] = field(default_factory=lambda: ["box"])
    # tasks and languages that are asked
    tasks: list[str] = field(default_factory=lambda: ["recognize", "caption"])
    languages: list[str] = field(default_factory=lambda: ["en", "zh"])
    # at most this many pictures, clips or videos; null: all
    limit: int | None = None
    # of videos, which are streamed: the switches that are on, of carry, history and memory joined by +, or none; each
    # gives a column of its own
    streams: list[str] = field(default_factory=lambda: ["carry+history+memory"])
    # most frames that are read of a clip
    clip_frames: int = 16


@dataclass
class EvaluateSection:
    # held-out sets by name
    splits: dict[str, SplitChoice] = field(default_factory=dict)
    # pictures at once
    batch_size: int = 16
    max_new_tokens: int = 48
    # pictures drawn per task
    pictures: int = 4


@dataclass
class Recipe:
    """One whole run, checked. ``source`` is the file it came from, ``overrides`` what the command line changed."""

    name: str
    model: ModelSection
    data: DataSection
    train: TrainSection
    evaluate: EvaluateSection
    # a run folder whose weights the model starts from
    init_from: str | None = None
    seed: int = 0
    source: str = ""
    overrides: list[str] = field(default_factory=list)
