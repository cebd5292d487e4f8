"""StaticGatewayConfigurations become addresses and load balancer rules in the cloud."""
