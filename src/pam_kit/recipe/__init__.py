"""YAML -> a checked, typed recipe; every mistake reported at once. Torch-free."""

from pam_kit.recipe.load import FILE_KEYS, RecipeKey, load_recipe, resolved_yaml, shipped_recipes, valid_keys
from pam_kit.recipe.schedule import Schedule, load_schedule
from pam_kit.recipe.source import find_recipe

__all__ = [
    "FILE_KEYS",
    "RecipeKey",
    "Schedule",
    "find_recipe",
    "load_recipe",
    "load_schedule",
    "resolved_yaml",
    "shipped_recipes",
    "valid_keys",
]
