"""What users write: the parameters of declarations, and how they are checked."""
