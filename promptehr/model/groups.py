"""What codes of one clinical group have in common: a vector that is part of each one's embedding.

Most codes have a handful of patients, too few to learn an embedding from; their group has
hundreds. A code's embedding, where it is read, written and pointed at, is its own vector plus its
group's, both learned, so that a rare code begins where its group is.

Shapes: V vocabulary, G groups, D width.
"""

import torch
from torch import Tensor, nn


class CodeGroups(nn.Module):
    """The groups' vectors; `of_token` [V] is a buffer, the group of each token from 1, 0 for none."""

    of_token: Tensor

    def __init__(self, *, groups: int, vocabulary_size: int, d_model: int):
        super().__init__()
        self.vectors = nn.Embedding(groups + 1, d_model, padding_idx=0)
        self.register_buffer("of_token", torch.zeros(vocabulary_size, dtype=torch.int64))

    def forward(self, ids: Tensor) -> Tensor:
        """Ids of any shape to [..., D]."""
        found: Tensor = self.vectors(self.of_token[ids])
        return found

    def table(self) -> Tensor:
        """[V, D] of all tokens."""
        found: Tensor = self.vectors(self.of_token)
        return found
