"""Who may do what: keys, permissions, and what they are derived from."""
