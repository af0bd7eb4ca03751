"""Vector fields in noise: what score matching, diffusion and flow matching share.

A network that is told how noisy its input is, the exact field beside it where the data's density
is known, and solvers that follow either.
"""

from engines.fields.engine import FieldModel
from engines.fields.exact import ExactPath
from engines.fields.network import Field

__all__ = ["ExactPath", "Field", "FieldModel"]
