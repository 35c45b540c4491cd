"""Everything that talks to Kubernetes: it observes, carries out what the core decided, and decides nothing itself."""
