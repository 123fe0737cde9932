"""What a frozen backbone makes of a picture and a prompt, kept on disk: later passes and runs skip the backbone.

For small studies: a region takes 9.7 MB at 1024 pixels and 2.4 MB at 512, and as much in every read frame of a clip.
"""

import hashlib
import json
import os
import sys
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pam_kit.atomic_files import whole_file
from pam_kit.contracts import PAD_POINT, ClipBatch, PromptBatch, RegionBatch, RegionFeatures
from pam_kit.errors import PamKitError, RecipeError
from pam_kit.model import RegionVLM, Watched
from pam_kit.registry import find
from pam_kit.sections import Recipe

# A region's tensors by field of RegionFeatures: of a picture without the region axis and without padded tokens; of a
# clip with an axis of frames, and only the padding that its frames need among themselves.
Kept = dict[str, Tensor]

# Those that every backbone gives, and those that some models have besides.
_FIELDS = tuple(f.name for f in fields(RegionFeatures) if f.default is MISSING and f.name != "token_padding")
_FURTHER = tuple(f.name for f in fields(RegionFeatures) if f.default is not MISSING)
_FOLDER_VARIABLE, _DEFAULT_FOLDER = "PAM_KIT_CACHE", "~/.cache/pam_kit"


class FeatureCache:
    """RegionFeatures by backbone, picture or clip and prompt, one safetensors file a region.

    Every region of a picture is computed by itself, so that what is kept does not depend on the batch it was met in: a
    run comes out the same, bit for bit on a CPU, whether the cache was empty, part full or full. Against a run without
    a cache, which computes a batch at once, features differ by rounding alone (about 1e-6). Clips are tracked a batch
    at once: a run that is repeated or resumed comes out the same, but what another run left may differ by rounding.

    Several runs may use one folder at once, and it may be deleted at any time. Files lie at
    ``folder/BACKBONE/XX/REGION.safetensors``. BACKBONE hashes the backbone's weights, settings and sources: the name of
    a weight file says nothing about what lies in it, nor about random weights or those a run starts from, and reading
    the weights of the largest SAM 2 through once takes about a second. So does it the crop that a perceiver asks for.
    REGION hashes the picture's and the prompt's
    tensors, the kind of device and autocast's type.

    Args:
        folder: where the files lie; made when it is needed.
        settings: what the backbone was built with, as text.
    """

    def __init__(self, folder: str | Path, settings: str):
        self.folder, self.settings = Path(folder), settings
        self._own_folder: Path | None = None
        self.hits = self.misses = 0

    @classmethod
    def of(cls, recipe: Recipe, model: RegionVLM) -> "FeatureCache | None":
        """The cache a recipe asks for with ``data.cache_features``, or None.

        Raises:
            RecipeError: the backbone learns, so what it makes of a picture does not stay the same.
        """
        if not recipe.data.cache_features:
            return None
        if not model.backbone.frozen:
            raise RecipeError(["data.cache_features needs a frozen backbone: backbone.frozen=true"])
        chosen = recipe.model.backbone
        defaults = {parameter.name: parameter.default for parameter in find("backbone", chosen.name).parameters}
        settings = json.dumps(defaults | chosen.arguments, sort_keys=True, default=str)
        return cls(recipe.data.cache_folder or default_folder(), settings)

    @torch.no_grad()
    def segment(self, model: RegionVLM, batch: RegionBatch) -> RegionFeatures:
        """What ``model.segment`` gives for the R regions of a batch, in their order.

        Pictures are encoded only where a region of theirs is missing, once each. The weights are hashed at the first
        call, when a resumed run has loaded them.
        """
        if not len(batch):
            return model.segment(batch.images, batch.image_index, batch.prompts)
        wanted = self._wanted(model, batch)
        found = {one.path: _read(one.path) for one in wanted}
        kept = {path: features for path, features in found.items() if features is not None}
        missing = {one.path: one for one in wanted if one.path not in kept}
        for path, features in _computed(model, batch.images, list(missing.values())):
            _write(path, features)
            kept[path] = features
        self.misses += len(missing)
        self.hits += len(wanted) - len(missing)
        return _joined([kept[one.path] for one in wanted], batch.images.device)

    @torch.no_grad()
    def watch(self, model: RegionVLM, batch: ClipBatch) -> list[Watched]:
        """What ``model.watch`` gives for a batch of clips; it is tracked as a whole where any part of it is missing."""
        looks = [sorted({0, *read}) for read in batch.read]
        places = [self._clip_places(model, batch, clip, seen) for clip, seen in enumerate(looks)]
        found = [[_read(path) for path in clip] for clip in places]
        complete = [None not in clip for clip in found]
        followed = [] if all(complete) else model.watch(replace(batch, read=looks))
        watched = []
        for clip, (seen, there) in enumerate(zip(looks, complete, strict=True)):
            kept = [features for features in found[clip] if features is not None]
            if not there:
                kept = [_of_clip(followed[clip][1], row) for row in range(len(places[clip]))]
                for path, features in zip(places[clip], kept, strict=True):
                    _write(path, features)
            self.hits, self.misses = self.hits + there * len(kept), self.misses + (not there) * len(kept)
            frames = _frames(kept, batch.clip_index.device)
            watched.append((frames[0], [frames[seen.index(index)] for index in batch.read[clip]]))
        return watched

    def report(self) -> str:
        """One line for the end of a run: regions read and computed in it, and the size of what this backbone has."""
        total = self.hits + self.misses
        size = 0
        for path in [] if self._own_folder is None else self._own_folder.glob("*/*.safetensors"):
            with suppress(FileNotFoundError):  # deleted since it was listed
                size += path.stat().st_size
        return (
            f"feature cache: {self.hits:,} of {total:,} regions read, {self.misses:,} computed; "
            f"{size / 1e6:,.1f} MB in {self._own_folder or self.folder}"
        )

    def _clip_places(self, model: RegionVLM, batch: ClipBatch, clip: int, seen: list[int]) -> list[Path]:
        """Where the regions of a clip lie, with the frames that are looked at."""
        prompts = batch.prompts.of_rows(batch.clip_index == clip).to("cpu")
        shown = _digest([*batch.frames[clip], torch.tensor(seen)])
        key = _region_key(shown, _trimmed(prompts), batch.clip_index.device.type)
        folder = self._folder_of(model) / key[:2]
        return [folder / f"{key}-{row}.safetensors" for row in range(len(prompts))]

    def _folder_of(self, model: RegionVLM) -> Path:
        if self._own_folder is None:
            settings = f"{self.settings} {model.perceiver.crop}" if model.perceiver.crop else self.settings
            self._own_folder = self.folder.expanduser() / _backbone_key(model.backbone, settings)[:24]
        return self._own_folder

    def _wanted(self, model: RegionVLM, batch: RegionBatch) -> list["_Wanted"]:
        folder = self._folder_of(model)
        kind = batch.images.device.type
        # All that is hashed, at once: each copy from a device waits for all that it has been given to do.
        images, image_index, prompts = batch.images.cpu(), batch.image_index.tolist(), batch.prompts.to("cpu")
        pictures = [_digest([image]) for image in images]
        wanted = []
        for row, image in enumerate(image_index):
            prompt = _prompt_of(prompts, row)
            key = _region_key(pictures[image], prompt, kind)
            # A picture that a batch holds twice is one picture.
            first = pictures.index(pictures[image])
            wanted.append(_Wanted(folder / key[:2] / f"{key}.safetensors", first, prompt))
        return wanted


@dataclass
class _Wanted:
    """One region of a batch: where it is kept, which picture it is in, and its prompt, on the CPU."""

    path: Path
    image: int
    prompt: PromptBatch


def _computed(model: RegionVLM, images: Tensor, missing: list[_Wanted]) -> Iterator[tuple[Path, Kept]]:
    """Features of some regions, each computed by itself; their pictures are encoded once."""
    for image in dict.fromkeys(one.image for one in missing):
        picture = images[image : image + 1]
        encoded, first = model.backbone.encode(picture), torch.zeros(1, dtype=torch.long, device=images.device)
        for one in missing:
            if one.image == image:
                regions = model.backbone.segment(encoded, first, one.prompt.to(images.device))
                yield one.path, _unpadded(model.with_crops(regions, picture))


def default_folder() -> Path:
    """``features`` in the folder that PAM_KIT_CACHE names, or else in ~/.cache/pam_kit."""
    return Path(os.environ.get(_FOLDER_VARIABLE) or _DEFAULT_FOLDER).expanduser() / "features"


def _backbone_key(backbone: nn.Module, settings: str) -> str:
    """Weights with their names, buffers that are in no state dict included; class, settings and sources."""
    digest = hashlib.sha256(f"{type(backbone).__module__}.{type(backbone).__qualname__} {settings}".encode())
    for source in _sources(type(backbone)):
        digest.update(source.read_bytes())
    tensors = dict(backbone.named_parameters()) | dict(backbone.named_buffers())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        # A sharded tensor is put together; every process of the run takes part in this.
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        digest.update(_digest([whole]).encode())
    return digest.hexdigest()


def _region_key(picture: str, prompt: PromptBatch, kind: str) -> str:
    """``kind``: of the device that computes."""
    autocast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "none"
    tensors = [prompt.points, prompt.labels, prompt.masks, prompt.has_mask]
    return hashlib.sha256(" ".join([picture, kind, autocast, _digest(tensors)]).encode()).hexdigest()


def _sources(kind: type) -> list[Path]:
    """The files of a class and its bases, and those beside them, so that a backbone under work is never mistaken for
    what it was; Python's and torch's own are left out."""
    foreign = {"torch", *sys.stdlib_module_names}
    modules = {base.__module__ for base in kind.__mro__ if base.__module__.partition(".")[0] not in foreign}
    files = [getattr(sys.modules.get(module), "__file__", None) for module in modules]
    folders = {Path(file).parent for file in files if file}
    return sorted(path for folder in folders for path in folder.glob("*.py"))


def _digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of types, shapes and bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _prompt_of(prompts: PromptBatch, row: int) -> PromptBatch:
    """One prompt by itself, without padded points."""
    one = prompts.of_rows(torch.tensor([row]))
    given = one.labels[0] != PAD_POINT
    return PromptBatch(one.points[:, given], one.labels[:, given], one.masks, one.has_mask)


def _trimmed(prompts: PromptBatch) -> PromptBatch:
    """Without the columns of points in which none of the prompts has one, which depend on the batch."""
    given = (prompts.labels != PAD_POINT).any(0)
    return replace(prompts, points=prompts.points[:, given], labels=prompts.labels[:, given])


def _unpadded(alone: RegionFeatures) -> Kept:
    """What is kept of a single region."""
    further = [name for name in _FURTHER if getattr(alone, name) is not None]
    kept = {name: getattr(alone, name)[0] for name in [*_FIELDS, *further]}
    kept["all_tokens"] = kept["all_tokens"][~alone.token_padding[0]]
    if "labels" in kept:
        given = kept["labels"] != PAD_POINT
        kept |= {name: kept[name][given] for name in ("points", "labels")}
    return kept


def _of_clip(frames: list[RegionFeatures], row: int) -> Kept:
    """What is kept of one region of a clip: not what is padding in all its frames, which depends on the batch."""
    region = RegionFeatures.joined([frame.of_rows([row]) for frame in frames])
    kept = {f.name: getattr(region, f.name) for f in fields(region) if getattr(region, f.name) is not None}
    told = ~kept["token_padding"].all(0)
    kept |= {name: kept[name][:, told] for name in ("all_tokens", "token_padding")}
    if "labels" in kept:
        given = (kept["labels"] != PAD_POINT).any(0)
        kept |= {name: kept[name][:, given] for name in ("points", "labels")}
    return kept


def _frames(regions: list[Kept], device: torch.device) -> list[RegionFeatures]:
    """The regions of a clip, frame by frame."""
    followed = [RegionFeatures(**{name: tensor.to(device) for name, tensor in kept.items()}) for kept in regions]
    frames = [[one.of_rows(slice(i, i + 1)) for one in followed] for i in range(len(followed[0]))]
    return [own[0] if len(own) == 1 else RegionFeatures.joined(own) for own in frames]


def _joined(regions: list[Kept], device: torch.device) -> RegionFeatures:
    """Regions side by side, the shorter ones' tokens and points padded behind."""
    alone = [
        RegionFeatures(
            token_padding=torch.zeros(1, len(kept["all_tokens"]), dtype=torch.bool, device=device),
            **{name: tensor[None].to(device) for name, tensor in kept.items()},
        )
        for kept in regions
    ]
    return RegionFeatures.joined(alone)


def _checksum(kept: Kept) -> str:
    total = 0
    for name in sorted(kept):
        total = zlib.crc32(_bytes(kept[name]), total)
    return f"{total:08x}"


def _read(path: Path) -> Kept | None:
    """A kept region, or None where there is none; what is damaged is not used, and said."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            kept = {name: file.get_tensor(name) for name in {*_FIELDS, *file.keys()}}
            expected = (file.metadata() or {}).get("crc32")
    except FileNotFoundError:  # deleted since
        return None
    except (SafetensorError, OSError) as error:
        warnings.warn(f"kept features are damaged and computed anew: {path} ({error})", stacklevel=3)
        return None
    if _checksum(kept) != expected:
        warnings.warn(f"kept features are damaged and computed anew: {path} (wrong checksum)", stacklevel=3)
        return None
    return kept


def _write(path: Path, kept: Kept) -> None:
    """Whoever looks for the file finds it whole or not at all. The disk is not waited for: what a power cut damages is
    found out by its checksum."""
    # Copies, since a file's tensors may not share memory.
    tensors = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in kept.items()}
    content = save(tensors, {"crc32": _checksum(kept)})
    try:
        with whole_file(path, unique=True, sync=False) as file:
            file.write(content)
    except OSError as error:
        raise PamKitError(
            f"features cannot be kept in {path.parent}: {error}. Make room, give another folder "
            "(data.cache_folder=/folder) or do without (data.cache_features=false)"
        ) from error
