"""Flow matching: from noise, or from any data, to any other."""

from engines.flow_matching.engine import FlowMatching

__all__ = ["FlowMatching"]
