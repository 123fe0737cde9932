"""Adapters become part of the weights they adapt, so that a checkpoint is read without them."""

from dataclasses import replace

from pam_kit.errors import CheckpointError
from pam_kit.model import RegionVLM
from pam_kit.registry import find
from pam_kit.sections import ComponentChoice, Recipe

# Arguments of a decoder, and what they are once its adapters are merged.
_ADAPTED, _QUANTISED = "lora_rank", "quantize"
_MERGED = {_ADAPTED: 0, _QUANTISED: None}


def merge_adapters(model: RegionVLM, recipe: Recipe) -> tuple[Recipe, bool]:
    """Merge the decoder's adapters, where its recipe has any, in place.

    Returns:
        the recipe of the merged model, and whether anything was merged.

    Raises:
        CheckpointError: the decoder is quantised and has no adapters; its weights are those of its own files.
    """
    chosen = recipe.model.decoder
    arguments = {p.name: p.default for p in find("decoder", chosen.name).recipe_parameters} | chosen.arguments
    if not arguments.get(_ADAPTED):
        if arguments.get(_QUANTISED):
            raise CheckpointError(
                f"the decoder is kept in few bits (decoder.{_QUANTISED}={arguments[_QUANTISED]}) and has no adapters: "
                f"it is {arguments.get('path')}, rounded. To hand the run on with the weights that lie there, save it "
                "as another one in Python, with what pam_kit.checkpoints has, and name that: "
                f'model, recipe = load_model("RUN", ("decoder.{_QUANTISED}=null",)); '
                'save_model("PLAIN", model, recipe)'
            )
        return recipe, False
    model.decoder.merge_adapters()
    plain = {name: value for name, value in chosen.arguments.items() if not name.startswith("lora_")}
    decoder = ComponentChoice(chosen.name, plain | _MERGED)
    return replace(recipe, model=replace(recipe.model, decoder=decoder)), True
