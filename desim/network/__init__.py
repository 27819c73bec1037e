"""The network: links, routes, and how collectives load the links. Knows nothing of the engine."""
