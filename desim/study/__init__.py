"""What-if studies: many scenarios that differ in a few values, and what the difference is."""
