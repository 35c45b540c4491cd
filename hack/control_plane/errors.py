"""The one error that the commands of `hack/cluster` show to a person as it is, without a traceback."""


class ControlPlaneError(Exception):
    """Something outside our code is in the way; the message names it and the way out."""
