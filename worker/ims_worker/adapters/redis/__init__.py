"""Coordination in Redis: schedule, leadership, cool-downs, shared token."""
