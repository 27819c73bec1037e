"""A trace of a real run beside a simulated one."""
