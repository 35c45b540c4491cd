"""Find the control plane's programs on this machine, or build them once from their locked Go modules.

Concept: `KUBEBUILDER_ASSETS`, then `PATH`, each only with the right minor version; then the cache, `bin/NAME-VERSION/`;
then a build into that cache. Two builders at once are safe: one waits for the other's lock, and a finished binary
appears by rename, never half written.
Boundary: returns paths; starts nothing but version queries and `go`.
Failure: a build that fails shows the end of Go's output; a missing Go toolchain is fetched (see `golang.py`).
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from control_plane.errors import ControlPlaneError
from control_plane.folders import cache_root, exclusive_lock
from control_plane.golang import GoToolchain, find_go
from control_plane.programs import Program, parse_version
from control_plane.progress import Ticker, say


def ensure(programs: tuple[Program, ...]) -> dict[str, Path]:
    """Return the path of each program by its name, building what is missing."""
    found = {program.name: find(program) for program in programs}
    missing = tuple(program for program in programs if found[program.name] is None)
    if missing:
        seconds = sum(_expected_seconds(program) for program in missing)
        names = ", ".join(program.name for program in missing)
        say(f"building {names} from source, once: about {_minutes(seconds)} on this machine's {_cores()} cores")
    return {program.name: found[program.name] or build(program) for program in programs}


def find(program: Program) -> Path | None:
    """Return a usable binary that is already there, or None."""
    candidates: list[Path] = []
    cached = cached_path(program)
    if not program.accepted_minors:
        return cached if cached.exists() else None
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        candidates.append(Path(assets) / program.name)
    if on_path := shutil.which(program.name):
        candidates.append(Path(on_path))
    for candidate in candidates:
        if stated_minor(candidate, program) in program.accepted_minors:
            return candidate
    return cached if cached.exists() else None


def stated_minor(binary: Path, program: Program) -> tuple[int, int] | None:
    """Return the (major, minor) that a binary states of itself, or None when it cannot be run or says nothing."""
    try:
        answer = subprocess.run(
            [binary, *program.version_arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_version(answer.stdout or answer.stderr)


def cached_path(program: Program) -> Path:
    """Return where the cache keeps the program once it is built."""
    machine = f"{sys.platform}-{platform.machine()}"
    return cache_root() / "bin" / f"{program.key}-{machine}" / program.name


def build(program: Program) -> Path:
    """Build the program into the cache, unless another process has just done so."""
    destination = cached_path(program)
    lock = destination.parent.with_name(f"{destination.parent.name}.lock")
    with exclusive_lock(lock, waiting_for=f"{program.name} is being built"):
        if destination.exists():
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=destination.parent) as folder:
            built = Path(folder) / program.name
            _go_build(program, find_go(), built)
            built.replace(destination)
    return destination


def _go_build(program: Program, go: GoToolchain, destination: Path) -> None:
    """Run `go build`, telling how far it is; packages already in Go's build cache are not compiled again."""
    module = program.modules_folder / program.module_folder
    environment = {
        **os.environ,
        "CGO_ENABLED": "1" if program.needs_c_compiler else "0",
        "GOFLAGS": "-mod=readonly",
        # The locked module states its Go version; no other toolchain may be fetched behind our back.
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    command = [str(go.path), "build", "-v", "-trimpath", "-ldflags", program.linker_flags, "-o", str(destination)]
    if program.build_tags:
        command += ["-tags", program.build_tags]
    output: list[str] = []
    expected = _minutes(_expected_seconds(program))

    def describe(elapsed_seconds: float) -> str:
        progress = build_progress(output)
        return f"building {program.name} {program.version}: {elapsed_seconds:.0f} s of about {expected}; {progress}"

    with Ticker(describe) as ticker:
        process = subprocess.Popen(
            [*command, program.package],
            cwd=module,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            assert process.stdout is not None
            output.extend(process.stdout)
        elapsed_seconds = ticker.elapsed_seconds
    if process.returncode != 0:
        end = "".join(output[-15:])
        raise ControlPlaneError(f"building {program.name} {program.version} with {go.path} failed:\n{end}")
    say(f"built {program.name} {program.version} in {elapsed_seconds:.0f} s")


def build_progress(output: list[str]) -> str:
    """Say in words how far `go build -v` is: it names modules as it fetches them, then packages as it compiles them."""
    fetched = sum(line.startswith("go: downloading ") for line in output)
    compiled = [line.strip() for line in output if not line.startswith("go: ")]
    if compiled:
        return f"{len(compiled)} packages compiled, now {compiled[-1][:60]}"
    return f"{fetched} modules fetched" if fetched else "looking at what is there already"


def _cores() -> int:
    return os.cpu_count() or 1


def _expected_seconds(program: Program) -> float:
    return program.build_core_seconds / min(_cores(), 16)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
