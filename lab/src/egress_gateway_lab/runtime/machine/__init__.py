"""What runs inside a simulated machine as its PID 1. Standard library only, started in 20 ms."""
