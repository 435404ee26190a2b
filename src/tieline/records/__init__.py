"""What is written to the bus: each record is one value with its own encode and decode."""
