"""OneRoof's real-estate records: homes on offer, sales, and what a home is worth. Knows nothing of the bus."""
