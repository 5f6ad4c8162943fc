"""Demographics to prompt vectors: what stands in front of the token embeddings.

Works on age in standard units and on category ids. Uses nothing but linear maps and embeddings,
so that per-patient gradients, as differentially private training needs them, can be taken.

Shapes: B patients, N numeric and C categorical features, n vectors per feature, W prompt width,
D model width, P = n * (N + C) prompts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Prompts(nn.Module):
    """One or more learned vectors per feature, numeric features first.

    A numeric feature is x -> W x + b in a space of its own, a categorical one an embedding plus
    a bias; a bias-free linear map per kind leads from there to the model's width.

    Source: Wang and Sun, PromptEHR, EMNLP 2022, section 3.
    """

    def __init__(self, *, numeric: int, categorical: Sequence[int], length: int, width: int, d_model: int):
        super().__init__()
        self.length, self.width = length, width
        self.numeric = nn.ModuleList(nn.Linear(1, length * width) for _ in range(numeric))
        self.categorical = nn.ModuleList(nn.Embedding(size, length * width) for size in categorical)
        self.categorical_bias = nn.ModuleList(nn.Embedding(1, length * width) for _ in categorical)
        self.numeric_map = nn.Linear(width, d_model, bias=False)
        self.categorical_map = nn.Linear(width, d_model, bias=False)

    def forward(self, x_num: Tensor, x_cat: Tensor) -> Tensor:
        """[B, N] float and [B, C] int64 to [B, P, D]."""
        zero = torch.zeros_like(x_cat[:, 0])
        numeric = [embed(x_num[:, i : i + 1]) for i, embed in enumerate(self.numeric)]  # [B, n W]
        categorical = [
            embed(x_cat[:, i]) + bias(zero)
            for i, (embed, bias) in enumerate(zip(self.categorical, self.categorical_bias, strict=True))
        ]
        kinds = ((self.numeric_map, numeric), (self.categorical_map, categorical))
        return torch.cat([kind(self._vectors(features)) for kind, features in kinds if features], dim=1)

    def _vectors(self, features: list[Tensor]) -> Tensor:
        """Features of [B, n W] each to [B, features * n, W]."""
        return torch.cat(features, dim=1).view(len(features[0]), -1, self.width)
