"""The office's own records: opening hours, the viewing calendar and the customers."""
