"""Resource providers: one module per Azure service."""
