"""Studies: scenarios compared with each other and with what was measured."""
