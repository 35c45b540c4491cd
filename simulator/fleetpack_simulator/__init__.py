"""Simulated inference replicas, loads and traces: the world that fleetpack's decisions are tried against."""
