"""The cloud protocol spoken with Azure Resource Manager through Azure's own SDKs."""
