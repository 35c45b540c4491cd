module fleetpack.dev/tests/kind-probe

go 1.26.0
