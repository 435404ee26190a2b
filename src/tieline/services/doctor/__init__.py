"""The doctor: one look at any NATS server, and rules on what was seen. Rules are functions of plain values."""

from tieline.services.doctor.examination import RULES, examine
from tieline.services.doctor.finding import SEVERITIES, Finding, Severity
from tieline.services.doctor.observation import Observation
from tieline.services.doctor.visit import visit

__all__ = ["RULES", "SEVERITIES", "Finding", "Observation", "Severity", "examine", "visit"]
