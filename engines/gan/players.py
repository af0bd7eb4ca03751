"""How the discriminator sees its points."""

from __future__ import annotations

from torch import Tensor, nn

from engines.nets import Waves


class EachPoint(nn.Module):
    """What D sees of packs (N, m·d): each point x of one as [x, sin(xF + φ)]; see `Waves`."""

    def __init__(self, waves: Waves, pack: int) -> None:
        super().__init__()
        self.waves, self.pack = waves, pack

    def forward(self, x: Tensor) -> Tensor:
        if self.pack == 1:
            return self.waves(x)
        return self.waves(x.reshape(len(x) * self.pack, -1)).reshape(len(x), -1)
