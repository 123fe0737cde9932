"""What is measured: pieces of work, and the model that does them. Torch-free."""

from dataclasses import dataclass, replace

from pam_kit.errors import PamKitError
from pam_kit.tasks import LANGUAGES, TASKS

STAGES = ("encode", "segment", "perceive", "prefill", "decode")


@dataclass(frozen=True)
class Work:
    """Questions about regions of pictures, or of a clip.

    Args:
        images: pictures.
        regions: regions of each picture, or of the clip.
        questions: questions about each region; so many as ``tasks`` and ``languages`` make, where those are given.
        frames: frames of a clip; 0 is pictures.
        max_new_tokens: the longest answer.
        tasks: what is asked; none: the first tasks there are, so many as make the number of questions.
        languages: in which it is asked, each task in each.

    Raises:
        PamKitError: the tasks and languages make no such number of questions, are unknown, or several clips.
    """

    images: int = 1
    regions: int = 1
    questions: int = 1
    frames: int = 0
    max_new_tokens: int = 4
    tasks: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()

    def __post_init__(self):
        if self.tasks or self.languages:
            self._settle()
        elif self.questions not in question_counts():
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
        named = f" ({', '.join(self.tasks)} in {', '.join(self.languages)})" if self.tasks else ""
        return f"{where}{_counted(self.regions, 'region')} x {_counted(self.questions, 'question')}{named}"

    @property
    def asked(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The tasks and the languages whose questions are asked."""
        if self.tasks:
            return self.tasks, self.languages
        languages = 1 if self.questions <= len(TASKS) else len(LANGUAGES)
        return TASKS[: self.questions // languages], LANGUAGES[:languages]

    def of_one_region(self) -> "Work":
        """The same questions about a single region."""
        return replace(self, images=1, regions=1)

    def _settle(self) -> None:
        """Fill in the tasks or the languages, as tuples, and the number of questions; frozen, it is done but once."""
        found: dict[str, tuple[str, ...]] = {}
        for name, known in (("tasks", TASKS), ("languages", LANGUAGES)):
            found[name] = tuple(dict.fromkeys(getattr(self, name) or known[:1]))
            if unknown := [one for one in found[name] if one not in known]:
                raise PamKitError(f"{unknown[0]!r} is none of the {name}, which are {', '.join(known)}")
            object.__setattr__(self, name, found[name])
        object.__setattr__(self, "questions", len(found["tasks"]) * len(found["languages"]))


@dataclass(frozen=True)
class ModelChoice:
    """The model that is measured: a trained one, or one of random weights.

    Args:
        checkpoint: a run folder.
        recipe: the recipe of a random model.
        overrides: changes to the recipe.
        sizes: of a random model without a recipe, see ``step_benchmark.StepSizes``.
        precision: what its decoder computes in; None leaves it as it is.
        steps: how the kit's sessions make their steps, see ``SessionSettings``.
    """

    checkpoint: str | None = None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    sizes: dict[str, int] | None = None
    precision: str | None = None
    steps: str = "growing"


def question_counts() -> list[int]:
    """How many questions a region can be asked."""
    return sorted({count * languages for languages in (1, len(LANGUAGES)) for count in range(1, len(TASKS) + 1)})


def _counted(count: int, name: str) -> str:
    return f"{count} {name}" + "s" * (count != 1)


TRAINING = "training step, {samples} samples"
# A picture's regions, a region's questions, and both.
TABLE = (Work(regions=8), Work(questions=8), Work(regions=16, questions=8))
