"""Moves messages: pull, execute, settle. Knows outcomes and deliveries, no NATS."""
