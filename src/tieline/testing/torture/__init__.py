"""The torture suite: faults under load, and what must hold all the same. ``tieline torture`` runs it."""

from tieline.testing.torture.fault import Fault
from tieline.testing.torture.faults import FAULTS, chosen
from tieline.testing.torture.run import Verdict, tortured

__all__ = ["FAULTS", "Fault", "Verdict", "chosen", "tortured"]
