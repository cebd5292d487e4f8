"""Where addresses and load balancers come from: one small protocol, Azure behind it."""
