"""One component and its arguments from the command line, checked as in a recipe. Torch-free."""

from collections.abc import Sequence

from pam_kit.recipe.check import check_component
from pam_kit.recipe.marked_yaml import Marked, Place, Problems, read_yaml
from pam_kit.sections import ComponentChoice


def component_choice(slot: str, name: str, arguments: Sequence[str]) -> ComponentChoice:
    """``name`` of ``slot`` with ``key=value`` arguments. RecipeError lists all that is wrong with them."""
    problems = Problems()
    given = {"name": Marked(name, Place(f"command line: {name}"))}
    for text in arguments:
        place = Place(f"command line: {text}")

        def where(_line: int, place: Place = place) -> Place:
            return place

        key, equals, value = text.partition("=")
        if not equals:
            problems.add(place, "", "expected key=value, for example split=val2017")
            continue
        marked = read_yaml(value, where, problems)
        if marked is not None:
            given[key.strip()] = marked
    choice = check_component(Marked(given, Place(f"command line: {name}")), slot, problems)
    problems.raise_any()
    return choice
