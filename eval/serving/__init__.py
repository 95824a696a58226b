"""The load test of the service."""
