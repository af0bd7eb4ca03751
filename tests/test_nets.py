"""The small parts that engines share."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from engines import nets
from engines.nets import Adam, mlp, set_lr


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


def test_layers_are_a_sequence_of_modules_bit_for_bit():
    net = nets.mlp([3, 16, 16, 2], torch.Generator().manual_seed(0))
    plain, x = torch.nn.Sequential(*net), torch.randn(50, 3)
    assert torch.equal(net(x), plain(x))
    mine = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    theirs = torch.autograd.grad(plain(x).square().sum(), list(plain.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert list(net.state_dict()) == list(plain.state_dict())
    other = {name: p + 1 for name, p in net.state_dict().items()}
    called = [torch.func.functional_call(each, other, (x,)) for each in (net, plain)]
    assert torch.equal(*called) and not torch.equal(called[0], net(x))


def test_waves_are_sines_beside_their_input():
    waves = nets.Waves(2, 8, 3.0, generator())
    x = torch.randn(5, 2, generator=generator(1))
    found = waves(x)
    assert found.shape == (5, waves.size) == (5, 10)
    assert torch.equal(found[:, :2], x)
    want = torch.sin(x @ waves.frequency + waves.phase)
    torch.testing.assert_close(found[:, 2:], want)
    assert torch.equal(nets.Waves(2, 0, 3.0, generator())(x), x)


def descents(kind: type, moves: int = 12, groups: bool = False, miss: int | None = None) -> list:
    """Weights and moments after so many moves of a small network under one Adam."""
    net = mlp([3, 8, 8, 2], torch.Generator().manual_seed(1))
    parts = list(net.parameters())
    two = [{"params": parts[:2]}, {"params": []}, {"params": parts[2:], "weight_decay": 0.1}]
    own = two if groups else parts
    optimiser = kind(own, lr=1e-2, betas=(0.8, 0.95), weight_decay=0.01, fused=True)
    rng = torch.Generator().manual_seed(2)
    for i in range(moves):
        loss = (net(torch.randn(16, 3, generator=rng)) - 1).square().mean()
        optimiser.zero_grad()
        assert all(p.grad is None for p in parts)
        loss.backward()
        if i == miss:
            parts[-1].grad = None
        set_lr(optimiser, 1e-2 / (1 + i))
        optimiser.step()
        if i == moves // 2:  # saved, and gone on with
            saved = optimiser.state_dict()
            optimiser = kind(own, lr=1.0, fused=True)
            optimiser.load_state_dict(copy.deepcopy(saved))
    kept = [value.clone() for p in parts for value in optimiser.state[p].values()]
    return [*(p.detach().clone() for p in parts), *kept]


@pytest.mark.parametrize("how", [{}, {"groups": True}, {"miss": 3}, {"miss": 9}])
def test_adam_is_torchs_own_bit_for_bit(how):
    ours, torchs = descents(Adam, **how), descents(torch.optim.Adam, **how)
    assert all(torch.equal(a, b) for a, b in zip(ours, torchs, strict=True))
    other = descents(Adam, moves=11, **how)
    assert not all(torch.equal(a, b) for a, b in zip(ours, other, strict=True)), "the wrong twin"


def test_adam_asks_torch_only_for_the_first_move(monkeypatch):
    asked, step = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *given: (asked.append(1), step(*given)))
    descents(Adam)
    assert len(asked) == 1, "moments that were loaded need no first move"
    descents(Adam, miss=3)
    assert len(asked) == 3, "one without a gradient is torch's to leave alone"
