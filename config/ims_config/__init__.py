"""The contract shared by producers and workers: settings, names, request, records, reports."""
