"""What `helm test` asks: rpcapi answers, the scheduler answers it, and exactly one replica of the scheduler leads.

Arguments: rpcapi's URL, and the scheduler's name with the port of its probes. Environment: CA_FILE, a file with the
authority of rpcapi's certificate, or empty. Everything is asked again until LIMIT_SECONDS are over.
"""

# ruff: noqa: INP001, T201 - a script of its own, whose output is what `helm test --logs` shows

import os
import socket
import ssl
import sys
import time
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

LIMIT_SECONDS = 60.0
PAUSE_SECONDS = 2.0
LEADERS_SERVICE = "astara.scheduler.v1.WorkService"


def check_http(url: str) -> None:
    """Raise OSError unless rpcapi says 200 for itself and for the scheduler."""
    ca_file = os.environ.get("CA_FILE")
    context = ssl.create_default_context(cafile=ca_file) if ca_file else None
    for path in ("/healthz", "/readyz"):
        with urllib.request.urlopen(url + path, timeout=5, context=context) as answer:  # noqa: S310 - http(s), the chart's
            print(f"{url}{path}: {answer.status}", flush=True)


def leaders(name: str, port: str) -> list[str]:
    """The addresses of the replicas that say that they lead."""
    found = []
    for address in sorted({str(info[4][0]) for info in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)}):
        target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        with grpc.insecure_channel(target) as channel:
            request = health_pb2.HealthCheckRequest(service=LEADERS_SERVICE)
            try:
                status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status
            except grpc.RpcError as error:
                # A replica that is on its way down, or up.
                print(f"{target}: {error.code().name}", flush=True)
                continue
        print(f"{target}: {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}", flush=True)
        if status == health_pb2.HealthCheckResponse.SERVING:
            found.append(target)
    return found


def main(url: str, scheduler: str) -> int:
    """Ask until all is well, or the limit is over; answers with the exit code."""
    name, _, port = scheduler.rpartition(":")
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        troubles = []
        try:
            check_http(url)
        except OSError as error:
            troubles.append(f"{url}: {error}")
        # Also when rpcapi is not ready: a scheduler that does not lead is why.
        try:
            found = leaders(name, port)
        except socket.gaierror:
            # A headless Service without pods has no address.
            found = []
        if len(found) != 1:
            troubles.append(f"{len(found)} replicas of the scheduler lead")
        if not troubles:
            print("ok", flush=True)
            return 0
        print("\n".join(troubles), flush=True)
        if time.monotonic() > deadline:
            return 1
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
