"""Many possible answers to a question, told how likely they are in one go, along the tree of their shared beginnings.

Answers that begin alike share the nodes of their beginning, so that each word behind the same words is computed once.
A node looks at the region, the question and the nodes on its own way from the root, and stands at the position that it
would have in its answer alone. (The mask is that of tree attention: Miao et al., "SpecInfer", ASPLOS 2024, section 4.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pam_kit.components.decoders.chat import ChatFormat
from pam_kit.errors import PamKitError


@dataclass(frozen=True)
class AnswerTree:
    """K answers as a tree of N nodes, in depth-first order; node 0 is the root: the last word of the question.

    ``words`` (N,) long is the word that leads to each node, ``parents`` (N,) and ``depths`` (N,) long the node before
    it and how many words lie between it and the root; ``ends`` (K,) long is where each answer ends. At the root
    ``words`` and ``parents`` are 0. ``inner`` (n,) long are the nodes that the model has to read: all that go on, but
    the root.
    """

    words: Tensor
    parents: Tensor
    depths: Tensor
    ends: Tensor
    inner: Tensor

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> "AnswerTree":
        """The tree of answers (T,), each with the word that ends it. Raises PamKitError for an empty one."""
        words, parents, depths, ends = [0], [0], [0], [0] * len(answers)
        children: list[dict[int, int]] = [{}]
        # In order, what begins alike lies together: nodes are numbered depth first.
        for index in sorted(range(len(answers)), key=lambda index: list(answers[index])):
            if not len(answers[index]):
                raise PamKitError(f"answer {index + 1} of {len(answers)} has no words")
            node = 0
            for word in answers[index]:
                if word not in children[node]:
                    children[node][word] = len(words)
                    words.append(word)
                    parents.append(node)
                    depths.append(depths[node] + 1)
                    children.append({})
                node = children[node][word]
            ends[index] = node
        inner = [node for node, below in enumerate(children) if below and node]
        return cls(*(torch.tensor(part, dtype=torch.long) for part in (words, parents, depths, ends, inner)))

    @property
    def depth(self) -> int:
        """Words of the longest answer, its end included."""
        return int(self.depths.max())

    def parts(self, most: int) -> Iterator[tuple[list[int], int]]:
        """The inner nodes in parts of at most ``most``, each behind those on the way to its first node.

        -> the nodes, and how many of them were in a part before. What any node of a part needs is in the part.
        """
        inner, parents = self.inner.tolist(), self.parents.tolist()
        for start in range(0, len(inner), most):
            way, node = [], parents[inner[start]]
            while node:
                way.append(node)
                node = parents[node]
            yield [*reversed(way), *inner[start : start + most]], len(way)

    def visible(self, nodes: Sequence[int]) -> Tensor:
        """(n, n) bool: which of ``nodes`` each looks at, itself and those on its way from the root."""
        place = {node: index for index, node in enumerate(nodes)}
        seen = torch.eye(len(nodes), dtype=torch.bool)
        for index, parent in enumerate(self.parents[list(nodes)].tolist()):
            if parent:
                seen[index] |= seen[place[parent]]
        return seen

    def along(self, steps: Tensor) -> Tensor:
        """Log-probabilities (rows, N) of each word behind its parent -> (rows, K) of whole answers."""
        total = torch.zeros_like(steps)
        for depth in range(1, self.depth + 1):
            level = (self.depths == depth).nonzero()[:, 0].to(steps.device)
            total[:, level] = total[:, self.parents.to(steps.device)[level]] + steps[:, level]
        return total[:, self.ends.to(steps.device)]


def answer_words(form: ChatFormat, question: str, answer: str, about_region: bool = True) -> list[int]:
    """The ids of an answer behind its question, and of the token that ends it.

    Raises PamKitError where the answer is empty, ends within, or changes how the question is split into tokens.
    """
    if form.end in (words := form.words(answer).tolist()) or not words:
        why = "holds the token that ends answers" if words else "has no words"
        raise PamKitError(f"the answer {answer!r} {why}, so it cannot be scored")
    asked = form.prompt(question, about_region)
    whole = form.example(question, answer, about_region).ids
    said = whole[len(asked) :].tolist()
    if not torch.equal(whole[: len(asked)], asked):
        raise PamKitError(f"the answer {answer!r} merges with the words before it, so it cannot be scored behind them")
    return said[: said.index(form.end) + 1]
