"""The decision core: pure functions from values to values.

Nothing in here does input or output, reads a clock or draws a random number; `planner.plan` is the one seam, called alike by
the operator, the simulator and `fleetpack plan`. A newcomer reads `planner.py` first: its numbered steps are the table of
contents of this package.
"""
