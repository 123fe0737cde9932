"""The losses of an optimiser step, put together from its micro-batches and devices, for the log."""

from collections.abc import Callable

import torch
from torch import Tensor

LOSSES = ("dice", "bce", "focal", "iou", "objectness", "alignment", "text")


class LossTally:
    """Sums up the micro-batches of one step, and the losses of single tasks, which a step may lack, since a log line.

    Args:
        tasks: names of the tasks whose text losses are told apart.
    """

    def __init__(self, tasks: tuple[str, ...]):
        self.tasks = tasks
        self._by_task: dict[str, list[Tensor]] = {}
        self.clear()

    def clear(self) -> None:
        """Begin a new step."""
        self._parts = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, losses: dict[str, Tensor]) -> None:
        """One micro-batch: its weighted ``loss``, (), and each loss multiplied by its share, (); nothing where no loss
        came out of it."""
        self._parts += 1
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()

    def is_empty(self) -> bool:
        """Whether no loss came out of the step."""
        return not self._sums

    def add_questions(self, per_question: Tensor, tasks: list[str]) -> None:
        """The text loss (Q,) of each question and its task."""
        for value, task in zip(per_question.detach(), tasks, strict=True):
            self._by_task.setdefault(task, []).append(value)

    def own(self) -> dict[str, Tensor]:
        """This device's part of the step's ``loss`` and of those that it is made of, () each."""
        return {name: value / self._parts for name, value in self._sums.items()}

    def means(self, reduce: Callable[..., Tensor] | None = None) -> dict[str, Tensor]:
        """The parts of the step's loss by name, ``loss/text`` and so on, and ``loss/text/TASK``, the mean over its
        questions since the last call. ``reduce(tensor, reduce_op="sum")`` sums over devices; all of them must call."""
        like = self._sums["loss"]
        zero = torch.zeros_like(like)
        row = [like.new_tensor(float(self._parts))]
        row += [self._sums.get(name, zero) for name in LOSSES]
        row += [like.new_tensor(float(name in self._sums)) for name in LOSSES]
        row += [torch.stack(self._by_task[task]).sum() if task in self._by_task else zero for task in self.tasks]
        row += [like.new_tensor(float(len(self._by_task.get(task, [])))) for task in self.tasks]
        total = torch.stack([value.float() for value in row])
        if reduce is not None:
            total = reduce(total, reduce_op="sum")
        parts, sums, seen, task_sums, task_counts = total.split(
            [1, len(LOSSES), len(LOSSES), len(self.tasks), len(self.tasks)]
        )
        named = {f"loss/{name}": v / parts[0] for name, v, there in zip(LOSSES, sums, seen, strict=True) if there > 0}
        self._by_task = {}
        counted = zip(self.tasks, task_sums, task_counts, strict=True)
        return named | {f"loss/text/{task}": value / count for task, value, count in counted if count > 0}
