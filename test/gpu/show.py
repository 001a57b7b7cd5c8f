#!/usr/bin/env python3
"""show.py GPULET REPOSITORY DEVICES PLAN_A PLAN_B WORKLOAD OUT: the server at work on real devices.

Serves plan A and goes through the phases in $PHASES, each with a table and the JSON of its load under OUT:
  compare  every model's answers against the references in the repository, alone and in formed batches ($COMPARE: 2e-2)
  steady   open-loop load
  change   the same while the plan changes to B and back (PUT /v2/gpulet/plan); no request may be lost or refused
  death    the same while the first worker is killed (SIGKILL)
  poison   the same while bert is sent a token that its table does not have: a kernel reads out of bounds, which
           breaks the device for the whole process, as a faulty model would
  mps      the same while the MPS daemon is killed (with SERVE_FLAGS="--isolation process")
Faults: how long the gpu-lets are away, the first and the last to be back, and which models noticed.
SECONDS_EACH: of each load (12). Exit 1 when something was lost or did not come back.
"""
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time

gpulet, repository, devices, plan_a, plan_b, workload, out = sys.argv[1:8]
seconds = float(os.environ.get("SECONDS_EACH", "12"))
phases = os.environ.get("PHASES", "compare steady change death").split()
extra = os.environ.get("SERVE_FLAGS", "").split()
here = os.path.dirname(os.path.abspath(__file__))
bad = []


def call(method, path, body=None, timeout=120):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    c.request(method, path, body)
    r = c.getresponse()
    text = r.read()
    c.close()
    return r.status, json.loads(text) if text else None


def load(name):
    p = subprocess.run(
        [
            gpulet,
            "load",
            "--url",
            f"http://127.0.0.1:{port}",
            "--workload",
            workload,
            "--warmup",
            "1s",
            "--duration",
            f"{seconds:g}s",
            "--seed",
            "1",
            "--quiet",
            "--json",
            "--bottleneck",
            "warn",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with open(os.path.join(out, f"{name}.json"), "w") as f:
        f.write(p.stdout)
    if not p.stdout.strip():
        print(p.stderr[-2000:])
        bad.append(f"{name}: no result")
        return []
    doc = json.loads(p.stdout)
    if doc["bottleneck"]:
        print(f"{name}: {doc['generator']['advice']}")
    return doc["models"]


def table(title, models):
    print(f"\n{title}")
    print(
        f"{'model':14} {'sent':>8} {'rate/s':>8} {'p50 ms':>8} {'p99 ms':>8} "
        f"{'max ms':>8} {'SLO ms':>8} {'attain':>8}  errors"
    )
    for m in models:
        errors = {k: v for k, v in m.get("errors", {}).items() if v}
        print(
            f"{m['name']:14} {m['sent']:8} {m['sent'] / seconds:8.0f} {m['p50_ms']:8.2f} "
            f"{m['p99_ms']:8.2f} {m['max_ms']:8.2f} {m.get('slo_ms') or 0:8.0f} "
            f"{100 * (m.get('attainment') or 0):7.2f}%  {errors or '-'}"
        )
    sent, ok = sum(m["sent"] for m in models), sum(m["ok"] for m in models)
    print(f"{sent} requests, {sent - ok} of them not answered with a result", flush=True)
    return sent - ok


def change(path):
    with open(path) as f:
        body = f.read()
    start = time.monotonic()
    status, doc = call("PUT", "/v2/gpulet/plan", body)
    took = time.monotonic() - start
    print(
        f"PUT {os.path.basename(path)}: {status}, generation {doc.get('generation')}, "
        f"{took * 1e3:.0f} ms until the answer {doc.get('error', '')}",
        flush=True,
    )
    if status != 200:
        bad.append(f"plan change: {doc}")


def states():
    return [g["state"] for g in call("GET", "/debug/server")[1]["groups"]]


def lanes():
    """[(gpu-let is up, models)] of what serves"""
    doc = call("GET", "/debug/server")[1]
    return [(l.get("up", g["state"] == "serving"), g["state"]) for g in doc["groups"] for l in g.get("gpulets", [{}])]


def all_up():
    now = lanes()
    return len(now) > 0 and all(up and state == "serving" for up, state in now)


def fault(what, action):
    """Does it and watches the gpu-lets go and come back."""
    before = len(lanes())
    action()
    start = time.monotonic()
    while all_up() and time.monotonic() - start < 8:
        time.sleep(0.002)
    if time.monotonic() - start >= 8:
        print(f"{what}: no gpu-let was away")
        return
    gone, first, last = time.monotonic() - start, None, None
    lost = 0
    while time.monotonic() - start < 120:
        now = lanes()
        up = sum(1 for u, _ in now if u)
        lost = max(lost, before - up)
        if first is None and up > before - lost:
            first = time.monotonic() - start
        if all_up():
            last = time.monotonic() - start
            break
        time.sleep(0.01)
    if last is None:
        bad.append(f"{what}: not back after 120 s")
        return
    print(
        f"{what}: seen after {gone:.2f} s, {lost} of {before} gpu-lets away, "
        f"the first back after {first or last:.2f} s, all after {last:.2f} s",
        flush=True,
    )


def grown(what):
    """Until every batch size is there."""
    start = time.monotonic()
    while time.monotonic() - start < 100:
        groups = call("GET", "/debug/server")[1]["groups"]
        if not any(g["growing"] for g in groups):
            failed = sum(g["sizes_failed"] for g in groups)
            print(
                f"{what}: all {sum(g['sizes_wanted'] for g in groups)} batch sizes are ready "
                f"{time.monotonic() - start:.1f} s later"
                + (f", {failed} of them failed" if failed else ""),
                flush=True,
            )
            if failed:
                bad.append(f"{failed} batch sizes could not be prepared")
            return
        time.sleep(0.1)
    bad.append(f"{what}: still growing after 100 s")


def settled(what):
    """Until there is nothing left to prepare: every batch size, and the spare worker with --spare."""
    grown(what)
    start = time.monotonic()
    while "--spare" in extra and time.monotonic() - start < 60:
        spares = call("GET", "/debug/server")[1]["spares"]
        if spares and all(x["prepared"] for x in spares):
            print(f"{what}: the spare is prepared {time.monotonic() - start:.1f} s after that", flush=True)
            return
        time.sleep(0.1)
    if "--spare" in extra:
        bad.append(f"{what}: no spare was prepared in 60 s")


def kill_worker():
    os.kill(call("GET", "/debug/server")[1]["workers"][0]["pid"], signal.SIGKILL)


def poison():
    body = json.dumps(
        {
            "inputs": [
                {"name": "input_ids", "shape": [1, 128], "datatype": "INT64", "data": [10**7] * 128},
                {"name": "attention_mask", "shape": [1, 128], "datatype": "INT64", "data": [1] * 128},
            ]
        }
    )
    status, doc = call("POST", "/v2/models/bert/infer", body)
    print(f"the poisonous request: status {status} {json.dumps(doc)[:240]}", flush=True)
    if status < 400:
        bad.append("the poisonous request was answered with a result")


def kill_mps():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as f:
                if f.read().startswith("nvidia-cuda-mps"):
                    found.append(int(pid))
        except OSError:
            pass
    print(f"MPS processes killed: {len(found)}")
    if not found:
        bad.append("there is no MPS daemon to kill")
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def later(share, action):
    t = threading.Timer(1 + seconds * share, action)
    t.daemon = True
    t.start()
    return t


def under_load(name, title, share, action):
    t = later(share, action)
    models = load(name)
    t.join(150)
    return table(title, models)


ready = os.path.join(out, "show.ready")
if os.path.exists(ready):
    os.remove(ready)
log_path = os.path.join(out, "show-server.log")
began = time.monotonic()
with open(log_path, "w") as log:
    server = subprocess.Popen(
        [
            gpulet,
            "serve",
            "--model-repository",
            repository,
            "--devices",
            devices,
            "--plan",
            plan_a,
            "--host",
            "127.0.0.1",
            "--http-port",
            "0",
            "--metrics-port",
            "-1",
            "--arena-size",
            "2GiB",
            "--log-level",
            "debug",
            "--ready-file",
            ready,
            *extra,
        ],
        stdout=log,
        stderr=log,
    )
while not os.path.exists(ready):
    if server.poll() is not None or time.monotonic() - began > 150:
        print(open(log_path).read()[-3000:])
        server.kill()
        sys.exit(1)
    time.sleep(0.02)
with open(ready) as f:
    port = int(dict(line.split() for line in f)["http"])
print(f"server ready after {time.monotonic() - began:.1f} s", flush=True)
try:
    settled("start")
    for phase in phases:
        if phase == "compare":
            tolerance = os.environ.get("COMPARE", "2e-2")
            p = subprocess.run(
                [
                    sys.executable,
                    os.path.join(here, "..", "python", "compare.py"),
                    "--url",
                    f"http://127.0.0.1:{port}",
                    "--models",
                    repository,
                    "--rtol",
                    tolerance,
                    "--atol",
                    tolerance,
                ],
                timeout=120,
            )
            if p.returncode:
                bad.append("answers differ from PyTorch's")
        elif phase == "steady":
            table("under load:", load("steady"))
        elif phase == "change":
            lost = under_load(
                "change",
                "under load, plan A -> B -> A while loaded:",
                0.15,
                lambda: [change(plan_b), time.sleep(seconds * 0.3), change(plan_a)],
            )
            if lost:
                bad.append(f"{lost} requests failed across plan changes")
        elif phase == "death":
            under_load(
                "death", "under load, the first worker killed:", 0.2, lambda: fault("SIGKILL of a worker", kill_worker)
            )
            settled("after it")
        elif phase == "poison":
            under_load(
                "poison",
                "under load, one request that breaks the device:",
                0.2,
                lambda: fault("a kernel out of bounds", poison),
            )
            settled("after it")
        elif phase == "mps":
            under_load(
                "mps", "under load, the MPS daemon killed:", 0.2, lambda: fault("SIGKILL of the MPS daemon", kill_mps)
            )
        else:
            sys.exit(f"no such phase: {phase}")
    print()
    print(
        "\n".join(
            line
            for line in open(log_path).read().splitlines()
            if any(w in line for w in ("serves (", " back", "killed", " warn", " error"))
        )
    )
finally:
    server.send_signal(signal.SIGTERM)
    try:
        code = server.wait(60)
    except subprocess.TimeoutExpired:
        server.kill()
        code = -9
    if code:
        bad.append(f"server exited with {code}")
        print(open(log_path).read()[-2000:])
for b in bad:
    print("FAILED:", b)
sys.exit(1 if bad else 0)
