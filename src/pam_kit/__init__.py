"""pam-kit: interchangeable parts for vision-language models that understand regions.

Importing this package imports neither torch nor any component; the names below load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_EXPORTS = {
    "RegionPrompt": "pam_kit.contracts",
    "RegionSample": "pam_kit.contracts",
    "RegionVLM": "pam_kit.model",
    "RegionPredictor": "pam_kit.inference.predictor",
    "load_recipe": "pam_kit.recipe",
    "register": "pam_kit.registry",
}
__all__ = [
    "__version__",
    "RegionPredictor",
    "RegionPrompt",
    "RegionSample",
    "RegionVLM",
    "load_recipe",
    "register",
]

if TYPE_CHECKING:
    from pam_kit.contracts import RegionPrompt, RegionSample
    from pam_kit.inference.predictor import RegionPredictor
    from pam_kit.model import RegionVLM
    from pam_kit.recipe import load_recipe
    from pam_kit.registry import register


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'pam_kit' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_EXPORTS[name]), name)
