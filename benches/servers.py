"""The S3 server of the benchmark, and the slow network in front of it."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import tools

BUCKET = "bench"


@dataclass
class S3:
    """Where a tool finds the server."""

    url: str
    key: str
    secret: str
    bucket: str = BUCKET


def free_ports(number):
    """Ports that were free a moment ago. weed opens its gRPC ports by itself, so that none can be kept for it."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]


@contextlib.contextmanager
def seaweed(folder):
    """A SeaweedFS on loopback whose data is in `folder`; gives its port and the keys."""
    folder.mkdir(parents=True)
    (folder / "data").mkdir()
    s3 = S3("", "benchkey", "benchsecret")
    identity = {"name": "bench", "credentials": [{"accessKey": s3.key, "secretKey": s3.secret}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc"]
    ports = dict(zip(names, free_ports(len(names))))
    command = [tools.REPOSITORY / ".tools/bin/weed", "-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-dir={folder / 'data'}", "-master.telemetry=false", "-master.peers=none", "-master.volumeSizeLimitMB=256"]
    command += ["-volume.max=200", "-volume.minFreeSpace=1MiB", "-volume.preStopSeconds=0", "-filer=true", "-s3=true"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", f"-s3.config={folder / 's3.json'}"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    with open(folder / "log", "ab") as log:
        server = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)], env=tools.clean_env(HOME=folder), cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until_ready(ports, server, folder / "log")
        yield ports["s3.port"], s3
    finally:
        server.kill()
        server.wait()
        # Sockets of a fixed place that outlive a killed server.
        for name in ("master", "volume", "filer", "s3"):
            Path(f"/tmp/seaweedfs-{name}-grpc-{ports[f'{name}.port.grpc']}.sock").unlink(missing_ok=True)


def wait_until_ready(ports, server, log):
    """Until the S3 side answers and the bucket is there."""
    questions = [f"http://127.0.0.1:{ports['s3.port']}/healthz"]
    questions.append(urllib.request.Request(f"http://127.0.0.1:{ports['filer.port']}/buckets/{BUCKET}/", method="PUT"))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(questions[0], timeout=2) as answer:
            if answer.status < 300:
                questions.pop(0)
        if not questions:
            return
        time.sleep(0.2)
    sys.exit(f"SeaweedFS did not start, see {log}")


class Network:
    """A slow network in front of a port of this machine."""

    def __init__(self, port, delay, rate):
        command = [sys.executable, Path(__file__).parent / "slow_network.py", f"--to={port}", f"--delay={delay}", f"--rate={rate}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
