"""`python -c … HEALTH_PORT HTTP_PORT`: answers `GET /NAME` with what gRPC's health service says of NAME: 200 or 503."""

import http.server
import os
import signal
import sys
import threading

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

HEALTH = health_pb2_grpc.HealthStub(grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}"))


class Bridge(http.server.BaseHTTPRequestHandler):
    """One question."""

    def do_GET(self) -> None:
        """Ask, and answer."""
        try:
            answer = HEALTH.Check(health_pb2.HealthCheckRequest(service=self.path[1:]), timeout=2)
            status = 200 if answer.status == health_pb2.HealthCheckResponse.SERVING else 503
        except grpc.RpcError:
            status = 503
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


# The first process of a container does not end by itself when it is asked to.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
server = http.server.ThreadingHTTPServer(("", int(sys.argv[2])), Bridge)
threading.Thread(target=server.serve_forever, daemon=True).start()
signal.sigwait({signal.SIGTERM})
os._exit(0)
