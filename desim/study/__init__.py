"""Studies: many scenarios side by side, and what differs between them."""
