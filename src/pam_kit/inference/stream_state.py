"""A stream written to a file and brought back: it goes on as if it had never stopped, to the last bit."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pam_kit.atomic_files import whole_file
from pam_kit.contracts import PerceivedTokens, RegionFeatures
from pam_kit.errors import CheckpointError, PamKitError
from pam_kit.inference.presence import PresenceTracker
from pam_kit.inference.result import prompt_from_json, prompt_json
from pam_kit.inference.stream_clip import ClipReading, Followed
from pam_kit.inference.stream_records import StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.triggers import Trigger
from pam_kit.model import RegionVLM

_FORMAT = "pam-kit stream 3"
_MEMORY, _NEWEST, _TRIGGER = "memory/", "newest/", "trigger/"
_CLIP = ("start", "first", "turn", "count", "carried", "seen")
# So many values of each parameter tell models apart.
_LOOKED_AT = 8


def save_stream(stream: RegionStream, path: str | Path, trigger: Trigger | None = None) -> None:
    """Write the stream, and what ``trigger`` remembers, to ``path``, one safetensors file, whole or not at all.

    It holds what the stream has in memory; not the model, which must be the same when it is loaded, and not the times
    that were measured. Raises PamKitError where the file cannot be written, and of a stream that is ``broken``; a
    former file is then left as it was.
    """
    stream.check_whole(f"be saved to {path}")
    tensors = {_MEMORY + name: value for name, value in stream.follower.memory.tensors().items()}
    if stream.newest is not None:
        tensors |= {_NEWEST + name: value for name, value in _named(stream.newest)}
    for one in stream.followed:
        tensors |= {_clip(one.number) + name: value for name, value in _clip_tensors(one.clip)}
    state = trigger.state() if trigger else {}
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    tensors |= {_TRIGGER + name: torch.from_numpy(value) for name, value in arrays.items()}
    facts = {
        "settings": asdict(stream.settings),
        "frames": stream.frames,
        "time": stream.time,
        "size": stream.size,
        "last_number": stream.last_number,
        "unread": sorted(stream.unread),
        "regions": [_region_facts(one) for one in stream.followed],
        "pending": {number: prompt_json(prompt) for number, prompt in stream.pending.items()},
        "trigger": {name: value for name, value in state.items() if name not in arrays},
        "model": _fingerprint(stream.model),
    }
    # Tensors that are views of others, as rows of a batch are, have to stand alone in the file.
    alone = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        with whole_file(Path(path)) as file:
            file.write(save(alone, {"format": _FORMAT, "facts": json.dumps(facts)}))
    except OSError as error:
        raise PamKitError(f"the stream cannot be saved to {path}: {error.strerror or error}") from error


def load_stream(
    model: RegionVLM, path: str | Path, device: torch.device | str | None = None, trigger: Trigger | None = None
) -> RegionStream:
    """The stream that ``save_stream`` wrote, with the model that it was made with.

    Args:
        trigger: goes on as the one that was saved with the stream; as it is, where none was.

    Raises:
        CheckpointError: the file is missing, cut off, no stream, or one of another model.
        PamKitError: the trigger that was saved has other arguments.
    """
    tensors, facts = _read(Path(path))
    if facts["model"] != _fingerprint(model):
        raise CheckpointError(f"{path} is a stream of another model; load it with the run that it was made with")
    if trigger is not None and facts["trigger"]:
        arrays = {name: value.numpy() for name, value in _below(tensors, _TRIGGER).items()}
        trigger.restore(facts["trigger"] | arrays)
    settings = facts["settings"]
    settings |= {name: tuple(settings[name]) for name in ("tasks", "languages")}
    stream = RegionStream(model, StreamSettings(**settings), device)
    tensors = {name: value.to(stream.device) for name, value in tensors.items()}
    stream.frames, stream.time, stream.last_number = facts["frames"], facts["time"], facts["last_number"]
    stream.size = None if facts["size"] is None else (facts["size"][0], facts["size"][1])
    stream.unread, stream.begun = set(facts["unread"]), max(stream.time, 0.0)
    stream.pending = {int(number): prompt_from_json(one) for number, one in facts["pending"].items()}
    stream.follower.memory.restore(_below(tensors, _MEMORY))
    newest = _below(tensors, _NEWEST)
    stream.newest = RegionFeatures(**newest) if newest else None
    stream.followed = [_region(stream, one, _below(tensors, _clip(one["number"]))) for one in facts["regions"]]
    return stream


def _clip(number: int) -> str:
    return f"clip/{number}/"


def _named(record: RegionFeatures | PerceivedTokens) -> Iterator[tuple[str, Tensor]]:
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            yield field.name, value


def _clip_tensors(clip: ClipReading) -> Iterator[tuple[str, Tensor]]:
    for name, value in clip.reading.tensors().items():
        yield f"reading/{name}", value
    if clip.last is not None:
        for name, value in _named(clip.last):
            yield f"last/{name}", value
    for index, value in enumerate(clip.unmerged):
        yield f"unmerged/{index}", value


def _region_facts(one: Followed) -> dict[str, Any]:
    clip = one.clip
    return {
        "number": one.number,
        "presence": one.presence.state(),
        "history": one.history,
        "box": one.box,
        "anew": one.anew,
        "clip": {name: getattr(clip, name) for name in _CLIP},
        "grid": None if clip.last is None else clip.last.grid,
    }


def _region(stream: RegionStream, facts: dict[str, Any], tensors: dict[str, Tensor]) -> Followed:
    clip = ClipReading(stream.follower, facts["clip"]["start"], stream.settings.read_every)
    for name in _CLIP:
        setattr(clip, name, facts["clip"][name])
    clip.reading.restore(_below(tensors, "reading/"))
    unmerged = _below(tensors, "unmerged/")
    clip.unmerged = [unmerged[str(index)] for index in range(len(unmerged))]
    last = _below(tensors, "last/")
    if last:
        clip.last = PerceivedTokens(**last, grid=(facts["grid"][0], facts["grid"][1]))
    box = None if facts["box"] is None else tuple(facts["box"])
    presence = PresenceTracker.from_state(facts["presence"])
    return Followed(facts["number"], presence, clip, facts["history"], box, facts["anew"])


def _below(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise CheckpointError(f"no saved stream at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a saved stream, or it is cut off: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a saved stream of this version; it says {metadata.get('format')!r}")
    return tensors, json.loads(metadata["facts"])


def _fingerprint(model: RegionVLM) -> str:
    """Tells models apart: names, shapes and the first few values of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)};".encode())
        digest.update(parameter.detach().flatten()[:_LOOKED_AT].float().cpu().numpy().tobytes())
    return digest.hexdigest()
