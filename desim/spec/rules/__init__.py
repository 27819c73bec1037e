"""Rules across the fields of a scenario, each one small function, run once its fields are valid."""
