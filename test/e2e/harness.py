"""harness.py: starts a real gpulet server for a test, speaks HTTP to it, and leaves nothing behind.

Every server listens on ports of the kernel's choosing and writes them to its ready file; waiting is for events
(a file, an exit, an answer) with a deadline, never for a time.
"""
import http.client
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

GPULET = os.environ.get("GPULET", "build/release/bin/gpulet")
SANITIZED = bool(os.environ.get("GPULET_SANITIZE"))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROFILE = os.path.join(ROOT, "profiles", "h200")  # what simulated H200s take their latencies from
PATIENCE = 120 if SANITIZED else 60  # seconds; these machines are shared and slow

os.environ.setdefault("ASAN_OPTIONS", "abort_on_error=0:detect_leaks=1:exitcode=99")


def until(condition, what, patience=PATIENCE, proc=None):
    """Polls |condition| (cheap, side-effect free) until it is true; fails with |what| after |patience| seconds."""
    end = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if proc is not None and proc.poll() is not None:
            raise AssertionError(f"{what}: the process ended with {proc.returncode}")
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {patience} s")
        select.select([], [], [], 0.01)


def null_model(name="null", max_batch=8, dims=16, dtype="TYPE_FP32", slo_ms=1000, null_us=0, extra="", delay_us=0):
    """config.pbtxt of a model whose outputs are its inputs (backend null)."""
    batching = (
        f"dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}\n"
        if delay_us is not None and max_batch
        else ""
    )
    return (
        f'name: "{name}"\nbackend: "null"\nmax_batch_size: {max_batch}\n'
        f'input [ {{ name: "IN" data_type: {dtype} dims: [ {dims} ] }} ]\n'
        f'output [ {{ name: "OUT" data_type: {dtype} dims: [ {dims} ] }} ]\n'
        + (f'parameters {{ key: "slo_ms" value {{ string_value: "{slo_ms}" }} }}\n' if slo_ms is not None else "") +
        f'parameters {{ key: "null_us" value {{ string_value: "{null_us}" }} }}\n{batching}{extra}'
    )


def repository(path, **models):
    """Writes a model repository: name=config text."""
    for name, config in models.items():
        os.makedirs(os.path.join(path, name, "1"), exist_ok=True)
        with open(os.path.join(path, name, "config.pbtxt"), "w") as f:
            f.write(config)
    return path


def plan_json(gpus, policy="test"):
    """gpus: [(id, [(granules, [(model, batch), ...]), ...]), ...]"""
    return json.dumps(
        {
            "policy": policy,
            "feasible": True,
            "gpus_used": len(gpus),
            "lower_bound_gpus": 0,
            "time_ms": 0,
            "reasons": [],
            "gpus": [
                {
                    "id": i,
                    "gpulets": [{"granules": g, "models": [{"name": n, "batch": b} for n, b in ms]} for g, ms in lets],
                }
                for i, lets in gpus
            ],
        }
    )


class Server:
    """A running `gpulet serve`. Use as a context manager."""

    def __init__(self, models, *args, devices="cpu", env=None, wait=True):
        self.dir = tempfile.mkdtemp(prefix="gpulet-test-")
        self.ready = os.path.join(self.dir, "ready")
        self.log_path = os.path.join(self.dir, "log")
        argv = [
            GPULET,
            "serve",
            "--model-repository",
            models,
            "--devices",
            devices,
            "--host",
            "127.0.0.1",
            "--http-port",
            "0",
            "--metrics-port",
            "0",
            "--ready-file",
            self.ready,
            *(["--profile", PROFILE] if devices.startswith("sim") else []),
            *map(str, args),
        ]
        with open(self.log_path, "wb") as log:
            self.proc = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )
        self.port = self.metrics_port = None
        if wait:
            self.wait_ready()

    def wait_ready(self):
        try:
            until(lambda: os.path.exists(self.ready), "server ready", proc=self.proc)
        except AssertionError:
            sys.stderr.write(self.log())
            self.kill()
            raise
        with open(self.ready) as f:
            fields = dict(line.split() for line in f)
        self.port, self.metrics_port = int(fields["http"]), int(fields["metrics"])

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def connect(self, timeout=PATIENCE):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None, conn=None):
        c = conn or self.connect()
        c.request(method, path, body, headers or {})
        r = c.getresponse()
        data = r.read()
        if conn is None:
            c.close()
        return r.status, dict((k.lower(), v) for k, v in r.getheaders()), data

    def json(self, method, path, body=None):
        status, _, data = self.request(
            method,
            path,
            json.dumps(body) if body is not None and not isinstance(body, (str, bytes)) else body,
            {"Content-Type": "application/json"} if body is not None else None,
        )
        return status, json.loads(data) if data else None

    def infer_floats(self, model, rows, conn=None, name="IN", parameters=None):
        """Binary tensors in and out; returns (status, list of rows or error text)."""
        n, width = len(rows), len(rows[0])
        raw = struct.pack(f"<{n * width}f", *[x for r in rows for x in r])
        head = {
            "inputs": [
                {"name": name, "datatype": "FP32", "shape": [n, width], "parameters": {"binary_data_size": len(raw)}}
            ],
            "parameters": {"binary_data_output": True, **(parameters or {})},
        }
        head = json.dumps(head).encode()
        status, headers, data = self.request(
            "POST", f"/v2/models/{model}/infer", head + raw, {"Inference-Header-Content-Length": str(len(head))}, conn
        )
        if status != 200:
            return status, json.loads(data)["error"]
        at = int(headers["inference-header-content-length"])
        doc = json.loads(data[:at])
        values = struct.unpack(f"<{(len(data) - at) // 4}f", data[at:])
        w = len(values) // doc["outputs"][0]["shape"][0]
        return status, [list(values[i * w:(i + 1) * w]) for i in range(doc["outputs"][0]["shape"][0])]

    def metrics(self):
        c = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=PATIENCE)
        c.request("GET", "/metrics")
        text = c.getresponse().read().decode()
        c.close()
        out = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                key, value = line.rsplit(" ", 1)
                out[key] = float(value)
        return out

    def workers(self):
        return [w["pid"] for w in self.json("GET", "/debug/server")[1]["workers"]]

    def stop(self, expect=0):
        """SIGTERM, then the exit code; the log must show no sanitizer report."""
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        code = self.proc.wait(PATIENCE)
        log = self.log()
        if code != expect or "ERROR: AddressSanitizer" in log or "runtime error:" in log or "LeakSanitizer" in log:
            sys.stderr.write(log[-8000:])
            raise AssertionError(f"server exited with {code}, expected {expect}, or a sanitizer complained")
        return code

    def kill(self):
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            if kind is None:
                self.stop()
            else:
                sys.stderr.write("---- server log ----\n" + self.log()[-6000:])
        finally:
            self.kill()


class Load:
    """Closed-loop clients on threads; every request's outcome is kept, so that lost and doubled answers show."""

    def __init__(self, server, model="null", clients=4, width=16):
        self.server, self.model, self.width = server, model, width
        self.stopping = threading.Event()
        self.outcomes = []  # (start, seconds, status, error text)
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(clients)]
        for t in self.threads:
            t.start()

    def run(self, seed):
        conn, k = self.server.connect(), 0
        while not self.stopping.is_set():
            k += 1
            row = [float(seed * 1000 + (k + i) % 1000) for i in range(self.width)]
            start = time.monotonic()
            try:
                status, got = self.server.infer_floats(self.model, [row], conn)
                if status == 200 and got != [row]:
                    status, got = -2, "answer belongs to another request"
            except (OSError, http.client.HTTPException) as e:
                status, got = -1, repr(e)
                conn.close()
                conn = self.server.connect()
            with self.lock:
                self.outcomes.append((start, time.monotonic() - start, status, got if status != 200 else ""))
        conn.close()

    def count(self):
        with self.lock:
            return len(self.outcomes)

    def stop(self):
        self.stopping.set()
        for t in self.threads:
            t.join(PATIENCE)
            assert not t.is_alive(), "a client still waits for its answer"
        return self.outcomes


def main():
    unittest.main(verbosity=2)
