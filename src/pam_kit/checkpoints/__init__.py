"""A trained model on disk: ``model/`` of a run folder holds weights (safetensors), recipe and tokenizer.

Stored is what no other file has: tensors that are frozen and lie unchanged in the weight files of their part are left
out, and ``parts.json`` says which files those are.
"""

from pam_kit.checkpoints.folder import STAGES, ended_stages, is_saved, model_folder, model_sha256
from pam_kit.checkpoints.init_from import start_from
from pam_kit.checkpoints.left_out import LeftOut, find_left_out, frozen_tensors, other_files
from pam_kit.checkpoints.load import load_model
from pam_kit.checkpoints.save import save_model
from pam_kit.checkpoints.state import full_state, tensor_names

__all__ = [
    "STAGES",
    "LeftOut",
    "ended_stages",
    "find_left_out",
    "frozen_tensors",
    "full_state",
    "is_saved",
    "load_model",
    "model_folder",
    "model_sha256",
    "other_files",
    "save_model",
    "start_from",
    "tensor_names",
]
