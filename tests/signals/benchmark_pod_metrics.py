"""What reading the pages of many Pods costs: `python tests/signals/benchmark_pod_metrics.py [PODS]`.

Concept: a server in a process of its own answers on many loopback addresses, as Pods would, with a page in the shape of vLLM's
(7.5 KB, 82 lines). Measured is this process's CPU time for whole reads through `SignalReader`: connection, HTTP, parsing,
sample. The goal: 500 Pods every 2 s on a third of a core, that is 1.3 ms for each read. Boundary: not a test; prints, asserts nothing.
"""

import asyncio
import sys
import time
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection

from fleetpack.signals import MetricNames, PodTarget, open_signal_reader
from fleetpack.signals.exposition import read_page

ROUNDS = 10
LATENCY_BOUNDS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
)
MODEL = 'model_name="meta-llama/Llama-3.1-8B-Instruct"'


def vllm_page() -> str:
    """A page of 7.5 KB."""
    lines: list[str] = []
    for name, value in (("vllm:num_requests_running", 12.0), ("vllm:num_requests_waiting", 3.0)):
        lines += [f"# HELP {name} Number of requests.", f"# TYPE {name} gauge", f"{name}{{{MODEL}}} {value}"]
    lines += ["# HELP vllm:request_success_total Count.", "# TYPE vllm:request_success_total counter"]
    for reason in ("stop", "length", "abort", "error"):
        lines.append(f'vllm:request_success_total{{finished_reason="{reason}",{MODEL}}} 25.0')
    for name in ("time_to_first_token", "time_per_output_token", "e2e_request_latency"):
        lines += [f"# HELP vllm:{name}_seconds Histogram.", f"# TYPE vllm:{name}_seconds histogram"]
        for count, bound in enumerate((*LATENCY_BOUNDS, "+Inf")):
            lines.append(f'vllm:{name}_seconds_bucket{{le="{bound}",{MODEL}}} {count * 10.0}')
        lines += [f"vllm:{name}_seconds_count{{{MODEL}}} 180.0", f"vllm:{name}_seconds_sum{{{MODEL}}} 10.5"]
    return "\n".join(lines) + "\n"


def serve(connection: Connection) -> None:
    """Answer every request with the page, on all loopback addresses."""
    body = vllm_page().encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "0.0.0.0", 0, backlog=1000)
        connection.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


async def measure(pods: int, port: int) -> None:
    """Read all Pods some rounds and print what one read cost."""
    targets = [
        PodTarget(
            deployment="ml/chat",
            signal="engine",
            pod_uid=f"uid-{pod}",
            address=f"127.0.{1 + pod // 250}.{1 + pod % 250}",
            port=port,
        )
        for pod in range(pods)
    ]
    async with open_signal_reader(time.time, budget_seconds=5.0) as reader:
        failures = [sample.error for sample in await reader.read(targets, 0.0) if sample.error]
        if failures:
            print(f"{len(failures)} reads failed, the first with: {failures[0]}")
        cpu, wall, read = time.process_time(), time.perf_counter(), 0
        for round_number in range(1, ROUNDS + 1):
            read += len(await reader.read(targets, 2.0 * round_number))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{read} reads of {pods} Pods: {cpu / read * 1000:.2f} ms of CPU each, {wall / ROUNDS:.2f} s a round")
    print(f"{pods} Pods every 2 s take {cpu / ROUNDS / 2:.0%} of a core")


def main() -> None:
    """Run the server and the measurement."""
    page = vllm_page()
    started = time.process_time()
    for _ in range(1000):
        read_page(page, MetricNames.VLLM)
    print(f"page of {len(page)} bytes: {time.process_time() - started:.3f} ms to parse")
    ours, theirs = Pipe()
    server = Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 500, ours.recv()))
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
