"""fleetpack: how many replicas an inference model needs, and on which accelerator cores, decided in one plan."""
