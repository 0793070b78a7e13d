"""What the backend ``morph`` is made of: the account, the way into a VM, and the runner's installation."""
