"""What producers and workers agree on: settings, contracts, errors, Redis keys and scripts."""
