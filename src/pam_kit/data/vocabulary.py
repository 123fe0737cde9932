"""The texts that a new vocabulary is learned from, for decoders that start without one."""

from collections.abc import Iterator

from pam_kit.data.mixture import Mixture
from pam_kit.errors import RecipeError
from pam_kit.registry import find
from pam_kit.sections import QUESTION_TEXTS, DataSection
from pam_kit.tasks import LANGUAGES, TASKS, clip_question, question

# So often is each question read: words are learned by how often they occur, and questions are asked all the time.
_ASKED = 500


def vocabulary_texts(section: DataSection, mixture: Mixture) -> Iterator[str]:
    """The texts of the training sets, and of what ``data.vocabulary_from`` names.

    Raises RecipeError for a name that is neither a dataset's nor ``questions``, or that is of one without texts.
    """
    yield from mixture.texts()
    for name in section.vocabulary_from:
        if name == QUESTION_TEXTS:
            yield from _questions()
            continue
        dataset = find("dataset", name).build()
        if not hasattr(dataset, "texts"):
            raise RecipeError([f"data.vocabulary_from: the dataset {name} has no texts"])
        yield from dataset.texts()


def _questions() -> Iterator[str]:
    for _ in range(_ASKED):
        for language in LANGUAGES:
            yield clip_question("caption", language)
            for task in TASKS:
                yield question(task, language)
