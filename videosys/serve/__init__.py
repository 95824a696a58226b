"""The HTTP service: requests are stored in a database, and worker processes generate the videos."""
