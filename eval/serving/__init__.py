"""How the service stands load and kills."""
