"""Errors made for the person who reads them: the CLI prints them without a traceback and exits with 2."""


class PamKitError(Exception):
    """Something the user can mend. The message says what was given, what is allowed and what to do."""


class RecipeError(PamKitError):
    """One or several mistakes in a recipe, each with file, line and key."""

    def __init__(self, problems: list[str]):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class PromptError(PamKitError):
    """A prompt that cannot point at anything: outside the picture, empty, of another size."""


class CheckpointError(PamKitError):
    """A run folder or weight file that is missing, incomplete or does not fit the model."""


class MissingPackageError(PamKitError):
    """An optional package is needed; the message holds the pip line that installs it."""


class BrokenSample(PamKitError):
    """One sample that cannot be used. It is skipped, counted and listed, never hidden.

    Args:
        source: where the sample comes from, for example ``train.jsonl:17``.
        reason: what is wrong with it, in one line.
    """

    def __init__(self, source: str, reason: str):
        self.source, self.reason = source, reason
        super().__init__(f"{source}: {reason}")

    def __reduce__(self):
        return type(self), (self.source, self.reason)
