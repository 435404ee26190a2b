"""OneRoof: a real-estate voice office of six processes that talk over the bus and over nothing else."""

from oneroof import agents as agents
from oneroof.declared import pod

__all__ = ["pod"]
