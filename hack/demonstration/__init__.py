"""The demo: a real control plane, the operator, simulated replicas that answer HTTP, a load, and a live picture of it all."""
