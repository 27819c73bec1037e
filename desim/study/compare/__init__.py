"""`compare`: variants of a scenario beside each other, and where their difference comes from."""
