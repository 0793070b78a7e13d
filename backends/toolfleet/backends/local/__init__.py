"""What engines on this machine share: processes, cgroups, records of sandboxes, mounts of root filesystems."""
