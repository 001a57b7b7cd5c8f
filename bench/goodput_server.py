"""goodput_server.py: a repository with the case's SLOs, a server on it, and a run of the generator beside which threads are watched."""

import ctypes
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")
# The inputs and outputs of the paper's nine as models/export.py writes them, for simulated devices.
IMAGE, IDS = ("UINT8", [3, 224, 224]), ("INT64", [128])
SHAPES = {
    "lenet": ([("INPUT__0", "FP32", [1, 28, 28])], [[10]]),
    "ssd": ([("INPUT__0", "UINT8", [3, 300, 300])], [[3234, 4], [3234, 91]]),
    "bert": ([("input_ids", *IDS), ("attention_mask", *IDS)], [[768]]),
}


def shapes_of(model):
    return SHAPES.get(model, ([("INPUT__0", *IMAGE)], [[1000]]))


def with_us():
    """A child ends when the bench does, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def null_repository(path, models):
    for name in models:
        os.makedirs(os.path.join(path, name, "1"), exist_ok=True)
        inputs, outputs = shapes_of(name)
        text = f'name: "{name}"\nbackend: "null"\nmax_batch_size: 32\n'
        for n, t, dims in inputs:
            text += f'input [ {{ name: "{n}" data_type: TYPE_{t} dims: {dims} }} ]\n'
        for i, dims in enumerate(outputs):
            text += f'output [ {{ name: "OUTPUT__{i}" data_type: TYPE_FP32 dims: {dims} }} ]\n'
        text += 'dynamic_batching { }\nparameters { key: "slo_ms" value { string_value: "1000" } }\n'
        with open(os.path.join(path, name, "config.pbtxt"), "w") as f:
            f.write(text)
    return path


def repository(path, original, slo):
    """|original|'s models with these SLOs: the files are links, only config.pbtxt is new (servers before plan SLOs read it)."""
    shutil.rmtree(path, ignore_errors=True)
    for name, ms in slo.items():
        source, to = os.path.join(os.path.abspath(original), name), os.path.join(path, name)
        if not os.path.isdir(source):
            raise SystemExit(f"{original} has no model '{name}'")
        os.makedirs(to)
        for x in os.listdir(source):
            if x != "config.pbtxt":
                os.symlink(os.path.join(source, x), os.path.join(to, x))
        with open(os.path.join(source, "config.pbtxt")) as f:
            text = f.read()
        text = re.sub(r'parameters\s*\{\s*key:\s*"slo_ms"\s*value\s*\{[^}]*\}\s*\}\s*', "", text)
        with open(os.path.join(to, "config.pbtxt"), "w") as f:
            f.write(text + f'\nparameters {{ key: "slo_ms" value {{ string_value: "{ms:g}" }} }}\n')
    return path


def threads(pid):
    """{thread: (name, CPU seconds)} of a process."""
    ret = {}
    try:
        for t in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{t}/stat") as f:
                    head, tail = f.read().rsplit(")", 1)
            except OSError:
                continue
            v = tail.split()
            ret[t] = head.split("(", 1)[1], (int(v[11]) + int(v[12])) / TICK
    except OSError:
        pass
    return ret


def busiest(before, after, seconds):
    """(cores, name) of the thread that ran most."""
    most = max(((after[t][1] - before.get(t, ("", 0))[1], after[t][0]) for t in after), default=(0, "-"))
    return round(most[0] / seconds, 3) if seconds > 0 else 0, most[1]


def steal():
    """(seconds that the hypervisor took from this machine's cores, seconds of them all)"""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:]]
    return v[7] / TICK, sum(v[:8]) / TICK


def waited(pid):
    """Seconds that the process's first thread was ready to run and had no core."""
    try:
        with open(f"/proc/{pid}/task/{pid}/schedstat") as f:
            return int(f.read().split()[1]) / 1e9
    except OSError:
        return 0.0


class Dead(Exception):
    """The server ended, or does not answer."""


class Server:
    def __init__(self, binary, directory, flags, patience):
        self.dir = directory
        self.log = os.path.join(directory, "server.log")
        ready = os.path.join(directory, "ready")
        if os.path.exists(ready):
            os.remove(ready)
        began = time.monotonic()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [
                    binary,
                    "serve",
                    "--host",
                    "127.0.0.1",
                    "--http-port",
                    "0",
                    "--metrics-port",
                    "-1",
                    "--ready-file",
                    ready,
                    *flags,
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=with_us,
            )
        try:
            while not os.path.exists(ready) or not os.path.getsize(ready):
                if self.process.poll() is not None:
                    raise Dead(f"no start: {self.last_words()}")
                if time.monotonic() - began > patience:
                    raise Dead(f"not ready after {patience:g} s: {self.last_words()}")
                time.sleep(0.01)
            with open(ready) as f:
                self.port = int(dict(line.split() for line in f)["http"])
        except BaseException:
            self.stop()
            raise
        self.started = time.monotonic() - began

    def last_words(self):
        with open(self.log, errors="replace") as f:
            lines = [x for x in f.read().splitlines() if x.strip()]
        return (lines[-1] if lines else "it said nothing")[-300:]

    def call(self, method, path, timeout=20):
        try:
            c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
            c.request(method, path)
            r = c.getresponse()
            text = r.read()
            c.close()
            return r.status, json.loads(text) if text else None
        except (OSError, ValueError, http.client.HTTPException) as e:
            code = self.process.poll()
            raise Dead(
                f"{method} {path}: {e}"
                + (f"; the server ended with {code}: {self.last_words()}" if code is not None else "")
            ) from e

    def page(self):
        return self.call("GET", "/debug/server")[1]

    def settle(self, patience):
        """Until no batch size is being added and nothing is in flight, seen twice. Returns "" or what was still going on."""
        end, calm = time.monotonic() + patience, 0
        while True:
            d = self.page()
            growing = sum(1 for g in d["groups"] if g.get("growing"))
            calm = calm + 1 if not growing and not d.get("in_flight") and d["groups"] else 0
            if calm == 2:
                return ""
            if time.monotonic() > end:
                return (
                    f"still growing after {patience:g} s"
                    if growing
                    else f"{d.get('in_flight')} still in flight after {patience:g} s"
                )
            time.sleep(0.05)

    def forget(self):
        return self.call("POST", "/v2/gpulet/forget")[0] == 200

    def cpu(self):
        """{"server": threads, "worker": threads of the busiest worker's process}"""
        workers = {}
        for pid in self.workers:
            for t, v in threads(pid).items():
                workers[f"{pid}/{t}"] = v
        return {"server": threads(self.process.pid), "worker": workers}

    def load(self, generator, flags, warmup, seconds, patience):
        """(document or None, exit code, last line of stderr, {"server": (cores, thread), "worker": ...})"""
        self.workers = [w["pid"] for w in self.page()["workers"]]
        p = subprocess.Popen(
            [
                generator,
                "load",
                "--url",
                f"http://127.0.0.1:{self.port}",
                "--warmup",
                f"{warmup:g}s",
                "--duration",
                f"{seconds:g}s",
                "--json",
                "--quiet",
                *flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=with_us,
        )
        try:
            # The threads' time is taken from within the load, so that its beginning and end do not dilute it.
            time.sleep(warmup + 0.15)
            before, t0 = self.cpu(), time.monotonic()
            steal0, waited0 = steal(), waited(self.process.pid)
            time.sleep(max(0.1, seconds - 0.3))
            after, t1 = self.cpu(), time.monotonic()
            steal1, waited1 = steal(), waited(self.process.pid)
            out, err = p.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            p.kill()
            p.communicate()
            return None, -9, f"the generator did not end within {patience:g} s", {}
        except BaseException:
            p.kill()
            p.communicate()
            raise
        cores = {k: busiest(before[k], after[k], t1 - t0) for k in before}
        self.held_up = {
            "stolen_share": round((steal1[0] - steal0[0]) / max(steal1[1] - steal0[1], 1e-9), 5),
            "server_waited_share": round((waited1 - waited0) / (t1 - t0), 5),
        }
        try:
            self.held_up["loop"] = self.page().get("loop")
        except Dead:
            pass
        try:
            doc = json.loads(out)
        except ValueError:
            doc = None
        lines = [x for x in err.splitlines() if x.strip()]
        return doc, p.returncode, lines[-1][-300:] if lines else "", cores

    def stop(self):
        """Returns the exit code; a server that does not go is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode
