"""An S3 service on this machine, in a process of its own: moto's, over HTTP. Ended by its id."""

from __future__ import annotations

import os
import re
import secrets
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services import Process

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}


class S3Server(Process):
    """`url` is its endpoint."""

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self._output = folder / "s3.log"
        super().__init__("-m", "moto.server", "-H", "127.0.0.1", "-p", "0", log=self._output)

    def up(self) -> None:
        self.start()
        self.wait_for("Running on http://127.0.0.1:")
        found = re.search(r"Running on (http://127\.0\.0\.1:\d+)", self._output.read_text())
        assert found is not None
        self.url = found[1]

    def bucket(self) -> str:
        """A new one; gives its name."""
        name = f"b-{secrets.token_hex(6)}"
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT"), timeout=30):
            return name

    def blobs_url(self, cache: str | Path = "off", prefix: str = "some/prefix") -> str:
        """The URL of blobs in a new bucket."""
        return f"s3://{self.bucket()}/{prefix}?endpoint={self.url}&region=us-east-1&cache={cache}"


@contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """Serve, with credentials for it in the environment of this process and of those that it starts."""
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ |= CREDENTIALS
    server = S3Server(folder)
    try:
        server.up()
        yield server
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
