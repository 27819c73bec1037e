"""Record -> what a person reads: terminal summary and report page."""
