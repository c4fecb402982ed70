"""What both sides agree on: settings, the request and its rules, names, the Celery app, logging."""
