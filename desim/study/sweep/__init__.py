"""`sweep`: every point of a study file, played once, as rows of a table."""
