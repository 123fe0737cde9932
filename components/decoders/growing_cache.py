"""Keys and values of a language model that grow without being copied at every step, and can be rolled back."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticLayer

from pam_kit.errors import PamKitError

# Positions of the first buffer; each one after it has twice as many as the one before.
_FIRST_CAPACITY = 256


class GrowingLayer(DynamicLayer):
    """One layer's keys and values (B, heads, L, width) as the front of buffers that double when they are full.

    transformers' own layer puts all of L together anew at every step, so that a step costs more the longer L is.
    Rolling back (``crop``) shortens the views; what lies in front of them is never written to again.

    Attributes:
        nothing_behind: whether nobody needs what the model computes of positions behind these keys and values.
    """

    nothing_behind = False
    _buffers: tuple[Tensor, Tensor] | None = None

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None):
        super().__init__()
        if keys is not None and values is not None:
            self.update(keys, values)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if self._buffers is None:
            self.device, self.is_initialized = key_states.device, True
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
            self._buffers = (self.keys, self.values)
        start = self.keys.shape[2]
        stop = start + key_states.shape[2]
        if stop > self._buffers[0].shape[2]:
            self._buffers = (_larger(self.keys, stop), _larger(self.values, stop))
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:stop] = new
        self.keys, self.values = (buffer[:, :, :stop] for buffer in self._buffers)
        if self.nothing_behind:
            raise AllIsRead
        return self.keys, self.values


class AllIsRead(Exception):
    """The keys and values of the last layer are there: what the model would compute now, nobody looks at."""


@contextmanager
def up_to_the_last_keys(cache: Cache) -> Iterator[None]:
    """A model that runs in here ends with the keys and values of its last layer, so that there is no output.

    That layer's attention and MLP are a part of the work that is worth leaving out: a sixth of six layers.
    """
    last = cache.layers[-1]
    last.nothing_behind = True
    try:
        yield
    except AllIsRead:
        pass
    finally:
        last.nothing_behind = False


def cache_argument(model: PreTrainedModel, purpose: str) -> str:
    """Under which name ``model`` takes its cache.

    Raises PamKitError, which names the ``purpose``, where it counts positions by itself.
    """
    accepted = inspect.signature(model.forward).parameters
    if "position_ids" not in accepted or "logits_to_keep" not in accepted:
        raise PamKitError(
            f"a {model.config.model_type} model cannot {purpose}, since it counts positions by itself; use a decoder "
            "that is told them (position_ids), such as qwen2"
        )
    return "cache" if "cache" in accepted else "past_key_values"


def new_cache(config: PreTrainedConfig) -> tuple[Cache, float]:
    """A cache that holds nothing yet, and up to how many positions it works as the model's own.

    A layer that looks back through a window holds all positions here and is rolled back like the others, as long as its
    window has not begun to slide.

    Raises:
        PamKitError: the model has layers whose state cannot be rolled back.
    """
    own = DynamicCache(config=config).layers
    strange = {type(layer).__name__ for layer in own} - {DynamicLayer.__name__, DynamicSlidingWindowLayer.__name__}
    if strange:
        raise PamKitError(
            f"a {config.model_type} model cannot read part by part: {', '.join(sorted(strange))} cannot be put back to "
            "what it was before an answer; use a decoder whose layers all have plain attention, such as qwen2"
        )
    windows = [layer.sliding_window for layer in own if isinstance(layer, DynamicSlidingWindowLayer)]
    return Cache(layers=[GrowingLayer() for _ in own]), min(windows, default=float("inf"))


def selected(cache: Cache, rows: Tensor | Sequence[int]) -> Cache:
    """A copy with these rows of the batch."""
    rows = list(rows) if not isinstance(rows, Tensor) else rows
    return Cache(layers=[GrowingLayer(layer.keys[rows], layer.values[rows]) for layer in cache.layers])


def roll_back(cache: Cache, length: int) -> None:
    """Leave the first ``length`` positions, in place, of each layer by itself.

    Where a model gave up half-way, out of memory for example, its last layers have not grown and have nothing to lose.
    """
    for layer in cache.layers:
        layer.crop(min(length - layer.get_seq_length(), 0))


def of_fixed_size(cache: Cache, rows: Sequence[int], capacity: int) -> Cache:
    """A copy with these rows of the batch in buffers of ``capacity`` positions, which a model sees as a whole."""
    layers = [StaticLayer(capacity) for _ in cache.layers]
    for layer, held in zip(layers, cache.layers, strict=True):
        layer.update(held.keys[list(rows)], held.values[list(rows)])
    return Cache(layers=layers)


def concatenated(caches: Sequence[Cache]) -> Cache:
    """The rows of several caches of one length, one cache after the other, in a new one."""
    together = zip(*(cache.layers for cache in caches), strict=True)
    joined = ([torch.cat([getattr(layer, name) for layer in same]) for name in ("keys", "values")] for same in together)
    return Cache(layers=[GrowingLayer(*layer) for layer in joined])


def _larger(held: Tensor, needed: int) -> Tensor:
    capacity = max(_FIRST_CAPACITY, 1 << (needed - 1).bit_length())
    buffer = held.new_empty(*held.shape[:2], capacity, held.shape[3])
    buffer[:, :, : held.shape[2]] = held
    return buffer
