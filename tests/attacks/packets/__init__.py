"""On the network: pods, gateway nodes, the nodes' own network."""
