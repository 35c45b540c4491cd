"""The commands of `hack/images`: parse, call, print.

Concept: standard output carries the answer only (names, or JSON); what is said to a person who waits goes to standard error. Exit code
0: done; 1: not so; 2: wrong usage. Boundary: no logic of its own. Failure: an `ImagesError` is printed as it is.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path

from images_build import base, building, engine, wheels
from images_build.images import IMAGES
from images_build.progress import ImagesError, say

EPILOG = """\
commands:
  build     bring the images up to date in the engine (the default; seconds when nothing changed)
  base      make the base image that is used where none can be pulled (Debian bookworm with Python 3.11; needs root, debootstrap)
  wheels    put the wheels into the folder `wheels` of --output, for a `docker build` by hand; needs no engine

environment:
  DOCKER_HOST      the engine
  KIND             the program kind (default: on PATH)
  BASE_IMAGE       base image to build on (default: the Dockerfile's, else one that is made here)
  DEBIAN_MIRROR    where debootstrap fetches from (default: apt's mirror)
  FLEETPACK_CACHE  root of the cache (default: $XDG_CACHE_HOME/fleetpack or ~/.cache/fleetpack)

examples:
  hack/images
  hack/images --load kind --json
  hack/images --only fleetpack
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except ImagesError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hack/images",
        description="Builds fleetpack's images without a network, from wheels that are fetched by hash first.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=("build", "base", "wheels"), default="build", metavar="COMMAND")
    parser.add_argument(
        "--only", choices=[image.name for image in IMAGES], action="append", help="this image (repeatable)"
    )
    parser.add_argument(
        "--load", metavar="CLUSTER", action="append", default=[], help="load into this kind cluster too (repeatable)"
    )
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="of `wheels`: where to (default: .)")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.command == "base":
        made = base.make()
        print(json.dumps(asdict(made)) if options.json else made.reference)
        return 0
    if options.command == "wheels":
        folder = options.output / "wheels"
        wheels.assemble(wheels.prepare(platform.machine()), folder)
        print(json.dumps({"folder": str(folder)}) if options.json else folder)
        return 0
    images = [image for image in IMAGES if not options.only or image.name in options.only]
    built = building.build(images)
    for cluster in options.load:
        start = time.monotonic()
        engine.load_into_kind([image.image for image in built], cluster)
        say(f"the nodes of {cluster} have them, after {time.monotonic() - start:.0f} s")
    if options.json:
        print(json.dumps({"images": [asdict(image) for image in built], "loaded": options.load}, indent=1))
    else:
        print("\n".join(image.image for image in built))
    return 0
