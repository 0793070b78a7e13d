"""Sandboxes: how one starts, runs a call, and ends."""
