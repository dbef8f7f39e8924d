"""Runs Neutron's API in this process: `serve_neutron.py PORT --config-file …`. Prints a line when it answers."""

import socketserver
import sys
from wsgiref import simple_server


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


class _Handler(simple_server.WSGIRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        """Neutron has a log of its own."""


def main() -> None:
    port = int(sys.argv.pop(1))
    from neutron.wsgi import api  # reads the configuration when it is imported

    with simple_server.make_server("127.0.0.1", port, api.application, _Server, _Handler) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
