"""The optimiser against the framework's own, bit for bit."""

import copy

import pytest
import torch
from torch import nn

from replicate.optim import SGD


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 5)).to(
        memory_format=torch.channels_last
    )


def steps(model, optimiser, rows, frozen=()):
    """Ten steps whose groups have these rates, momenta and decays, one row a step; ``frozen``: parameters without gradient."""
    draw = torch.Generator().manual_seed(1)
    for row in rows:
        for group, decay in zip(optimiser.param_groups, (row[2], 0.0), strict=True):
            group["lr"], group["momentum"], group["weight_decay"] = row[0], row[1], decay
        images = torch.randn(4, 3, 8, 8, generator=draw).contiguous(memory_format=torch.channels_last)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), torch.randint(5, (4,), generator=draw)).backward()
        for place in frozen:
            list(model.parameters())[place].grad = None
        optimiser.step()


@pytest.mark.parametrize(
    "rows",
    [
        [(0.1 / (k + 1), 0.9, 5e-4) for k in range(10)],
        [(0.1, 0.0, 0.0)] * 3 + [(0.05, 0.9, 2e-4)] * 4 + [(0.05, 0.0, 2e-4)] * 3,
    ],
)
@pytest.mark.parametrize("frozen", [(), (1, 3)])
def test_bit_for_bit_as_the_frameworks(rows, frozen):
    ours = network()
    theirs = copy.deepcopy(ours)
    own = SGD([list(ours.parameters())[::2], list(ours.parameters())[1::2]])
    groups = [{"params": list(theirs.parameters())[::2]}, {"params": list(theirs.parameters())[1::2]}]
    frameworks = torch.optim.SGD(groups, lr=1.0, momentum=0.9, foreach=True)
    before = [value.clone() for value in ours.parameters()]
    steps(ours, own, rows, frozen)
    steps(theirs, frameworks, rows, frozen)
    for place, (one, other, old) in enumerate(zip(ours.parameters(), theirs.parameters(), before, strict=True)):
        assert torch.equal(one, other) and torch.equal(one, old) == (place in frozen)
        momentum = frameworks.state[other].get("momentum_buffer") if other in frameworks.state else None
        assert (momentum is None) == (one not in own.state)
        assert momentum is None or torch.equal(own.state[one]["momentum_buffer"], momentum)


def test_a_parameter_that_joins_later_begins_its_momentum_as_the_frameworks_does():
    ours = network()
    theirs = copy.deepcopy(ours)
    own = SGD([ours.parameters(), []])
    frameworks = torch.optim.SGD([{"params": list(theirs.parameters())}, {"params": []}], lr=1.0, momentum=0.9, foreach=True)
    for frozen in ((0, 1), ()):
        steps(ours, own, [(0.1, 0.9, 5e-4)] * 2, frozen)
        steps(theirs, frameworks, [(0.1, 0.9, 5e-4)] * 2, frozen)
    assert all(torch.equal(one, other) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True))
