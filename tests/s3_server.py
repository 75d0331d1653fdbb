"""A real S3 server for tests: moto's, as a process of its own, that can be killed and started again on the same port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

BUCKET = "pydreaming-tests"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-for-any-log", "AWS_EC2_METADATA_DISABLED": "true"}


class S3Server:
    """The server process. Its memory is the storage, so what was stored goes with it. `running`: the session's one."""

    running: S3Server

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the server)
        os.environ.update(CREDENTIALS)
        self.start()
        S3Server.running = self

    def start(self) -> None:
        """Start it, with an empty bucket. Returns when it answers."""
        program = Path(sys.executable).parent / "moto_server"
        self.process = subprocess.Popen([str(program), "-H", "127.0.0.1", "-p", str(self.port)], stdout=self.log, stderr=self.log)
        end = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                assert self.process.poll() is None, "the S3 server has ended"
                assert time.monotonic() < end, "the S3 server does not start"
                time.sleep(0.05)
        self.client.create_bucket(Bucket=BUCKET)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    @property
    def client(self):
        """Another implementation of S3 than the one under test."""
        import boto3

        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1")

    def new_address(self, port: int = 0) -> str:
        """A store that nobody has used. `port`: of a cable to this server, if not its own."""
        return f"s3://{BUCKET}/tests/{uuid.uuid4().hex}?endpoint_override=127.0.0.1:{port or self.port}&scheme=http&region=us-east-1"


class Cable:
    """What joins a host to a server, and can be cut: connections break, and new ones are refused, until it is mended."""

    def __init__(self, to_port: int) -> None:
        self._to, self.port, self._ends = to_port, 0, list[socket.socket]()
        self.mend()

    def mend(self) -> None:
        """From now on the server can be reached."""
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)  # with SO_REUSEADDR
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def cut(self) -> None:
        """From now on it cannot."""
        for end in [self._listener, *self._ends]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=[source, sink], daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
