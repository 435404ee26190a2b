"""Metrics: what a Prometheus server may scrape, read over the bus with a reader's rights."""

from tieline.services.metrics.serving import Place, alert_rules, run, serve

__all__ = ["Place", "alert_rules", "run", "serve"]
