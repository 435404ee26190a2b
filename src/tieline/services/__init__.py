"""Loops with one job each, beside the agents."""
