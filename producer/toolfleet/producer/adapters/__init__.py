"""Interfaces of the predecessors over a fleet: what their users change is an import, or a URL."""
