"""The predecessors' HTTP interfaces over a fleet: an environment switches by the URL that it is given."""
