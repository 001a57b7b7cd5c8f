#!/usr/bin/env python3
"""show.py GPULET REPOSITORY DEVICES PLAN_A PLAN_B WORKLOAD OUT: the server at work on real devices.

1. Serves plan A under open-loop load; while loaded, changes to plan B and back (PUT /v2/gpulet/plan).
2. Under load again, kills a worker with SIGKILL and measures how long its gpu-lets are away.
Prints one table per run and the figures; writes the JSON of each run under OUT. Exit 1 when a request was lost: every
request that a plan change touches must be answered, and every request that a death touches must be answered or refused.
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
extra = os.environ.get("SERVE_FLAGS", "").split()
bad = []


def call(method, path, body=None):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    c.request(method, path, body)
    r = c.getresponse()
    text = r.read()
    c.close()
    return r.status, json.loads(text) if text else None


def load(name):
    p = subprocess.run([gpulet, "load", "--url", f"http://127.0.0.1:{port}", "--workload", workload, "--warmup", "1s", "--duration", f"{seconds:g}s", "--seed", "1", "--quiet", "--json"],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with open(os.path.join(out, f"{name}.json"), "w") as f:
        f.write(p.stdout)
    if not p.stdout.strip():
        print(p.stderr[-2000:])
        bad.append(f"{name}: no result")
        return []
    return json.loads(p.stdout)["models"]


def table(title, models):
    print(f"\n{title}")
    print(f"{'model':14} {'sent':>8} {'rate/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'SLO ms':>8} {'attain':>8}  errors")
    for m in models:
        errors = {k: v for k, v in m.get("errors", {}).items() if v}
        print(f"{m['name']:14} {m['sent']:8} {m['sent'] / seconds:8.0f} {m['p50_ms']:8.2f} {m['p99_ms']:8.2f} {m['max_ms']:8.2f} {m.get('slo_ms') or 0:8.0f} {100 * (m.get('attainment') or 0):7.2f}%  {errors or '-'}", flush=True)


def at(when, action):
    t = threading.Timer(when, action)
    t.daemon = True
    t.start()
    return t


def change(path):
    with open(path) as f:
        body = f.read()
    start = time.monotonic()
    status, doc = call("PUT", "/v2/gpulet/plan", body)
    took = time.monotonic() - start
    print(f"PUT {os.path.basename(path)}: {status}, generation {doc.get('generation')}, {took * 1e3:.0f} ms until the old one was gone {doc.get('error', '')}", flush=True)
    if status != 200:
        bad.append(f"plan change: {doc}")


def serving():
    doc = call("GET", "/debug/server")[1]
    return all(g["state"] == "serving" for g in doc["groups"]) and len(doc["groups"]) > 0


def kill():
    pid = call("GET", "/debug/server")[1]["workers"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    start = time.monotonic()
    while serving() and time.monotonic() - start < 5:
        time.sleep(0.002)
    while not serving() and time.monotonic() - start < 120:
        time.sleep(0.01)
    print(f"SIGKILL of worker {pid}: all gpu-lets serve again after {time.monotonic() - start:.2f} s", flush=True)


ready = os.path.join(out, "show.ready")
if os.path.exists(ready):
    os.remove(ready)
log_path = os.path.join(out, "show-server.log")
began = time.monotonic()
with open(log_path, "w") as log:
    server = subprocess.Popen([gpulet, "serve", "--model-repository", repository, "--devices", devices, "--plan", plan_a, "--host", "127.0.0.1", "--http-port", "0",
                               "--metrics-port", "-1", "--arena-size", "2GiB", "--ready-file", ready, *extra], stdout=log, stderr=log)
while not os.path.exists(ready):
    if server.poll() is not None or time.monotonic() - began > 150:
        print(open(log_path).read()[-3000:])
        server.kill()
        sys.exit(1)
    time.sleep(0.05)
with open(ready) as f:
    port = int(dict(line.split() for line in f)["http"])
print(f"server ready after {time.monotonic() - began:.1f} s")
here = os.path.dirname(os.path.abspath(__file__))
try:
    if os.environ.get("COMPARE"):  # "2e-2": answers against the references in the repository, alone and in formed batches
        tolerance = os.environ["COMPARE"]
        p = subprocess.run([sys.executable, os.path.join(here, "..", "python", "compare.py"), "--url", f"http://127.0.0.1:{port}", "--models", repository,
                            "--rtol", tolerance, "--atol", tolerance], timeout=120)
        if p.returncode:
            bad.append("answers differ from PyTorch's")
    t = at(1 + seconds * 0.15, lambda: [change(p) for p in (plan_b, plan_a)])
    models = load("changes")
    t.join(60)
    table("under load, plan A -> B -> A while loaded:", models)
    lost = sum(m["sent"] - m["ok"] for m in models)
    print(f"requests {sum(m['sent'] for m in models)}, not answered with a result: {lost}")
    if lost:
        bad.append(f"{lost} requests failed across plan changes")
    t = at(1 + seconds * 0.2, kill)
    models = load("death")
    t.join(120)
    table("under load, the worker killed once:", models)
    print("\n".join(line for line in open(log_path).read().splitlines() if "serves (" in line or "back" in line or "killed" in line))
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
