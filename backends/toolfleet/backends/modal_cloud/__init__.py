"""What the backend `toolfleet.backends.modal` is made of."""
