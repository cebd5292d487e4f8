"""The live map: pods, gateways and addresses as the controller's caches know them."""
