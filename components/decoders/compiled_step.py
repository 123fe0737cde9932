"""A language model whose forward pass is compiled, for steps that have the same shapes again and again."""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InductorError
from transformers import PreTrainedModel

from pam_kit.errors import PamKitError

_COMPILED: WeakKeyDictionary[PreTrainedModel, Callable] = WeakKeyDictionary()


def compiled_step(model: PreTrainedModel) -> Callable:
    """``model.forward``, compiled once for each set of shapes that it is called with.

    Raises PamKitError, when it is called, where there is no compiler for the device.
    """
    if model not in _COMPILED:
        compiled = torch.compile(type(model).forward, dynamic=False)
        _COMPILED[model] = compiled

    def step(**inputs):
        try:
            return _COMPILED[model](model, **inputs)
        except (InductorError, BackendCompilerFailed) as error:
            reason = str(error).strip().splitlines()[0]
            raise PamKitError(
                f"the step of decoding cannot be compiled here: {reason}; install a C++ compiler (on GPUs also "
                "Triton), or decode without it"
            ) from error

    return step
