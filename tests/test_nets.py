"""The small parts that engines share."""

from __future__ import annotations

import copy
import math

import torch

from engines import nets


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_best_weights_are_those_of_the_smallest_loss():
    net = nets.mlp([2, 4, 1], generator())
    best = nets.Best(copy.deepcopy(net))
    seen = []
    for step, loss in enumerate([3.0, 1.0, math.nan, 2.0], 1):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(1.0)
        seen.append([p.clone() for p in net.parameters()])
        best.offer(net, torch.tensor(loss), step)
    assert float(best.loss) == 1.0 and int(best.step) == 2
    for kept, second, last in zip(best.module.parameters(), seen[1], seen[3], strict=True):
        assert torch.equal(kept, second) and not torch.equal(kept, last)
        assert not kept.requires_grad
    best.forget()
    best.offer(net, torch.tensor(5.0), 9)
    assert float(best.loss) == 5.0 and int(best.step) == 9


def test_best_weights_travel_in_a_state_dict():
    net = nets.mlp([2, 4, 1], generator())
    best, other = nets.Best(copy.deepcopy(net)), nets.Best(copy.deepcopy(net))
    best.offer(net, torch.tensor(0.5), 7)
    other.load_state_dict(best.state_dict())
    assert float(other.loss) == 0.5 and int(other.step) == 7


def test_waves_are_sines_beside_their_input():
    waves = nets.Waves(2, 8, 3.0, generator())
    x = torch.randn(5, 2, generator=generator(1))
    found = waves(x)
    assert found.shape == (5, waves.size) == (5, 10)
    assert torch.equal(found[:, :2], x)
    want = torch.sin(x @ waves.frequency + waves.phase)
    torch.testing.assert_close(found[:, 2:], want)
    assert torch.equal(nets.Waves(2, 0, 3.0, generator())(x), x)
