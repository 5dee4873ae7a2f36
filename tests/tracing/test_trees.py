"""What a model takes: how many examples there are in it, and the same with another number of them."""

import pytest
import torch

from icycle.tracing import batch_size, with_batch


@pytest.mark.parametrize(
    ("inputs", "size"),
    [
        (torch.zeros(3, 5), 3),
        ((torch.zeros(3, 5), {"mask": torch.zeros(3, 7), "table": torch.zeros(9, 7)}), 3),
        ([torch.zeros(9), torch.zeros(3, 5)], 3),  # a vector may list something else
        (torch.zeros(4), 4),
        (torch.tensor(2.0), 1),
        ((), 1),
    ],
)
def test_the_batch_is_what_most_inputs_begin_with(inputs: object, size: int) -> None:
    assert batch_size(inputs) == size


@pytest.mark.parametrize("size", [1, 2, 5])
def test_another_number_of_examples_repeats_them_in_their_order(size: int) -> None:
    images, lengths, scale, table = torch.rand(2, 3, 4), torch.tensor([7, 8]), torch.tensor(0.5), torch.rand(9, 4)
    taken = [number % 2 for number in range(size)]
    found = with_batch({"images": images, "more": (lengths, scale, table)}, size)
    assert torch.equal(found["images"], torch.stack([images[number] for number in taken]))
    assert found["more"][0].tolist() == [[7, 8][number] for number in taken]
    assert found["more"][1] is scale and found["more"][2] is table


def test_vectors_stay_where_they_are_not_of_the_examples() -> None:
    images, list_of_two = torch.rand(2, 3), torch.rand(2)
    found = with_batch((images, list_of_two), 4, least=2)
    assert len(found[0]) == 4 and found[1] is list_of_two
