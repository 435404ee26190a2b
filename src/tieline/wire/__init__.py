"""The NATS side: the only package that imports the NATS client."""
