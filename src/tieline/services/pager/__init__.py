"""The pager: tells people when messages die, and again when they are all looked after."""

from tieline.services.pager.service import Pager, run

__all__ = ["Pager", "run"]
