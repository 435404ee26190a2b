"""Read models over what the bus holds. Nothing here writes."""
