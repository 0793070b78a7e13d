"""What runs on the machines: the Celery worker, its slots and its warm sandboxes."""
