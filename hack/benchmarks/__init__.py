"""Measurements with budgets: how fast the operator reacts, how little it writes, how long a plan takes."""
