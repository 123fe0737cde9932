"""What is measured: pieces of work, and the model that does them. Torch-free."""

from dataclasses import dataclass

from pam_kit.errors import PamKitError
from pam_kit.tasks import LANGUAGES, TASKS

STAGES = ("encode", "segment", "perceive", "prefill", "decode")


@dataclass(frozen=True)
class Work:
    """Questions about regions of pictures, or of a clip.

    Args:
        images: pictures.
        regions: regions of each picture, or of the clip.
        questions: questions about each region.
        frames: frames of a clip; 0 is pictures.
        max_new_tokens: the longest answer.

    Raises:
        PamKitError: the tasks and languages make no such number of questions, or several clips.
    """

    images: int = 1
    regions: int = 1
    questions: int = 1
    frames: int = 0
    max_new_tokens: int = 4

    def __post_init__(self):
        if self.questions not in question_counts():
            allowed = ", ".join(map(str, question_counts()))
            raise PamKitError(
                f"{self.questions} questions: there are {len(TASKS)} tasks, asked in one language or in "
                f"{len(LANGUAGES)}, so a region is asked {allowed} questions"
            )
        if self.frames and self.images > 1:
            raise PamKitError(f"clips are measured one at a time: give frames without images, not {self.images} images")

    @property
    def name(self) -> str:
        """For example ``8 regions x 1 question``."""
        where = f"clip of {_counted(self.frames, 'frame')}, " if self.frames else ""
        where = f"{_counted(self.images, 'picture')}, " if self.images > 1 else where
        return f"{where}{_counted(self.regions, 'region')} x {_counted(self.questions, 'question')}"

    @property
    def asked(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The tasks and the languages whose questions are asked."""
        languages = 1 if self.questions <= len(TASKS) else len(LANGUAGES)
        return TASKS[: self.questions // languages], LANGUAGES[:languages]

    def of_one_region(self) -> "Work":
        """The same questions about a single region."""
        return Work(1, 1, self.questions, self.frames, self.max_new_tokens)


@dataclass(frozen=True)
class ModelChoice:
    """The model that is measured: a trained one, or one of random weights.

    Args:
        checkpoint: a run folder.
        recipe: the recipe of a random model.
        overrides: changes to the recipe.
        sizes: of a random model without a recipe, see ``step_benchmark.StepSizes``.
        precision: what its decoder computes in; None leaves it as it is.
    """

    checkpoint: str | None = None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    sizes: dict[str, int] | None = None
    precision: str | None = None


def question_counts() -> list[int]:
    """How many questions a region can be asked."""
    return sorted({count * languages for languages in (1, len(LANGUAGES)) for count in range(1, len(TASKS) + 1)})


def _counted(count: int, name: str) -> str:
    return f"{count} {name}" + "s" * (count != 1)


TRAINING = "training step, {samples} samples"
# A picture's regions, a region's questions, and both.
TABLE = (Work(regions=8), Work(questions=8), Work(regions=16, questions=8))
