"""The parts of the backend ``docker``."""
