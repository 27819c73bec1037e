"""The engine: the only room that owns the clock."""
