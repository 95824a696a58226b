"""The HTTP service: accepted requests are kept in a database, and worker processes make the videos."""
