"""Real Kubernetes in the lab's place of the embedded one: its programs, control plane and nodes."""
