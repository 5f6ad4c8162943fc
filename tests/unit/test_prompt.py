"""Prompt vectors: order of features, widths, and that each feature moves only its own."""

import torch

from promptehr.model.prompt import Prompts


def prompts(length: int = 1) -> Prompts:
    torch.manual_seed(0)
    return Prompts(numeric=1, categorical=[3, 6], length=length, width=4, d_model=8)


def test_one_vector_per_feature_and_length_numeric_first() -> None:
    for length in (1, 3):
        vectors = prompts(length)(torch.zeros(2, 1), torch.tensor([[0, 5], [2, 1]]))
        assert vectors.shape == (2, 3 * length, 8)


def test_a_numeric_vector_is_linear_in_its_feature() -> None:
    made = prompts()
    x_cat = torch.zeros(3, 2, dtype=torch.int64)
    low, middle, high = made(torch.tensor([[-1.0], [0.0], [1.0]]), x_cat)[:, 0]
    expected = made.numeric_map.weight @ made.numeric[0].bias
    assert torch.allclose(middle, expected)
    assert torch.allclose(low + high, 2 * middle, atol=1e-6)


def test_a_categorical_vector_is_its_embedding_and_bias_mapped() -> None:
    made = prompts()
    vectors = made(torch.zeros(1, 1), torch.tensor([[2, 4]]))
    gender = made.categorical[0].weight[2] + made.categorical_bias[0].weight[0]
    ethnicity = made.categorical[1].weight[4] + made.categorical_bias[1].weight[0]
    assert torch.allclose(vectors[0, 1], made.categorical_map.weight @ gender)
    assert torch.allclose(vectors[0, 2], made.categorical_map.weight @ ethnicity)


def test_a_feature_moves_only_its_own_vectors() -> None:
    made = prompts(2)
    x_cat = torch.tensor([[0, 0], [1, 0], [0, 1]])
    base, other_gender, other_ethnicity = made(torch.zeros(3, 1), x_cat)
    moved = [(vectors != base).any(1).tolist() for vectors in (other_gender, other_ethnicity)]
    assert moved == [
        [False, False, True, True, False, False],
        [False, False, False, False, True, True],
    ]


def test_only_linear_maps_and_embeddings() -> None:
    leaves = [module for module in prompts().modules() if not list(module.children())]
    assert {type(module) for module in leaves} == {torch.nn.Linear, torch.nn.Embedding}
