"""The GPU path without a GPU: `gpulet serve --devices cuda:0,1` on the fake driver (src/device/cuda/fake), with models
that have their weights and buffers in its device memory and run as graphs. Every test runs in both isolations: one
worker per device (green contexts), and one per gpu-let under a stand-in for NVIDIA's MPS daemon."""
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import harness
from harness import Load, Server, main, null_model, plan_json, repository, until

BUILD = os.path.dirname(os.path.dirname(os.path.abspath(harness.GPULET)))
DRIVER = os.path.join(BUILD, "libgpulet_fake_cuda.so")
PLUGIN = os.path.join(BUILD, "fake")
HANG, INVALID_HANDLE, ILLEGAL_ADDRESS = -1, 400, 700

# Says "up" as the real one does, by making its control pipe; "quit" on its input ends the daemon.
MPS = """#!/bin/sh
if [ "$1" = -f ]; then
  echo $$ > "$CUDA_MPS_PIPE_DIRECTORY/pid"
  : > "$CUDA_MPS_PIPE_DIRECTORY/control"
  exec sleep 600
fi
read word && [ "$word" = quit ] && kill "$(cat "$CUDA_MPS_PIPE_DIRECTORY/pid")"
"""


def gpu_model(name="null", **more):
    return null_model(name, slo_ms=20000, **more).replace('backend: "null"', 'backend: "pytorch"')


def say(text):
    sys.stderr.write(f"  {text}\n")


class Base:
    isolation = None

    def setUp(self):
        if not (os.path.exists(DRIVER) and os.path.isdir(PLUGIN)):
            self.skipTest(
                "this build has no fake CUDA driver: cuda.h (12.5 or later) was not found when it was configured"
            )
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.fault_file = os.path.join(self.dir.name, "fault")

    def serve(self, plan, models, *args, env=None, devices="cuda:0,1", path=None):
        d = self.dir.name
        repository(os.path.join(d, "models"), **models)
        for m in models:
            with open(os.path.join(d, "models", m, "1", "model.pt"), "w") as f:
                f.write("the fake engine does not read this")
        with open(os.path.join(d, "plan.json"), "w") as f:
            f.write(plan)
        os.makedirs(os.path.join(d, "bin"), exist_ok=True)
        tool = os.path.join(d, "bin", "nvidia-cuda-mps-control")
        if path is None:
            with open(tool, "w") as f:
                f.write(MPS)
            os.chmod(tool, 0o755)
            path = os.path.join(d, "bin") + os.pathsep + os.environ["PATH"]
        env = {
            "GPULET_CUDA_DRIVER": DRIVER,
            "GPULET_FAKE_CUDA_GPUS": "2",
            "GPULET_FAKE_CUDA_FAULT_FILE": self.fault_file,
            "PATH": path,
            **(env or {}),
        }
        return Server(
            os.path.join(d, "models"),
            "--plan",
            os.path.join(d, "plan.json"),
            "--plugin-dir",
            PLUGIN,
            "--isolation",
            self.isolation,
            *args,
            devices=devices,
            env=env,
        )

    def load(self, *args, **more):
        load = Load(*args, **more)
        self.addCleanup(load.stopping.set)
        return load

    def fault(self, gpu, function, code):
        """The next call of |function| by one worker of |gpu| fails with |code|."""
        with open(self.fault_file + ".tmp", "w") as f:
            f.write(f"{function}:{code}")
        os.rename(self.fault_file + ".tmp", f"{self.fault_file}.{gpu}")

    def workers(self, s, gpu):
        return sorted(w["pid"] for w in s.json("GET", "/debug/server")[1]["workers"] if w["device"] == f"cuda:{gpu}")

    def all_serve(self, s):
        return all(g["state"] == "serving" for g in s.json("GET", "/debug/server")[1]["groups"])

    def failed(self, load):
        return [o for o in load.stop() if o[2] != 200]

    def two(self):
        """Several gpu-lets on each of two devices: "a" on both, "b" on device 1 only."""
        return plan_json(
            [(0, [(4, [("a", 8)]), (8, [("a", 4)])]), (1, [(4, [("a", 8)]), (4, [("b", 8)]), (8, [("b", 4)])])]
        )

    def models(self, null_us=300):
        return {"a": gpu_model("a", null_us=null_us), "b": gpu_model("b", null_us=null_us)}

    # ---- the tests ----

    def test_serves(self):
        with self.serve(self.two(), self.models()) as s:
            per_device = 1 if self.isolation == "device" else None
            self.assertEqual(len(self.workers(s, 0)), per_device or 2)
            self.assertEqual(len(self.workers(s, 1)), per_device or 3)
            loads = [self.load(s, m, clients=6) for m in ("a", "b")]
            until(lambda: all(load.count() > 200 for load in loads), "answers")
            self.assertEqual([self.failed(load) for load in loads], [[], []])
            def used(m):
                return [v for k, v in m.items() if k.startswith("nv_gpu_memory_used_bytes{")]
            until(
                lambda: [u > 32 << 20 for u in used(s.metrics())] == [True, True],
                "workers report the memory of their GPUs",
            )
            m = s.metrics()
            total = [v for k, v in m.items() if k.startswith("nv_gpu_memory_total_bytes{")]
            self.assertEqual(set(total), {float("%.9g" % (1 << 30))})
            text = s.request("GET", "/metrics")[2].decode()
            self.assertEqual(
                text.count("\nnv_gpu_memory_total_bytes{"), 2, "one row per GPU, however many workers it has"
            )
            self.assertEqual(len([k for k in m if k.startswith("nv_gpu_utilization")]), 2)
            batches = {k: v for k, v in m.items() if k.startswith("gpulet_batches{")}
            self.assertEqual(len(batches), 5)
            self.assertEqual([k for k, v in batches.items() if not v], [], "every gpu-let has work")

    def test_growing_keeps_answers_apart(self):
        """Sizes that are ready already answer while further ones are tried beside them."""
        models = {m: gpu_model(m, max_batch=32, null_us=4000) for m in ("a", "b")}
        with self.serve(plan_json([(0, [(8, [("a", 32)]), (8, [("b", 32)])])]), models, devices="cuda:0") as s:
            loads = [self.load(s, m, clients=3) for m in ("a", "b")]
            until(lambda: not s.json("GET", "/v2/gpulet/plan")[1]["growing"], "all sizes are ready")
            self.assertEqual([self.failed(load) for load in loads], [[], []])

    def test_plan_leaves_a_device_that_is_coming_back(self):
        """A worker is replaced and some of its gpu-lets take batches again when the plan gives up its device."""
        models = {"a": gpu_model("a", null_us=3000), "slow": gpu_model("slow", null_us=150000)}
        rest = (1, [(16, [("a", 8)])])
        whole, less = plan_json([(0, [(8, [("a", 8)]), (8, [("slow", 8)])]), rest]), plan_json([rest])
        with self.serve(whole, models) as s:
            load = self.load(s, "a", clients=8)
            for _ in range(3):
                back = s.log().count("is back")
                os.kill(self.workers(s, 0)[0], signal.SIGKILL)
                until(lambda: s.log().count("is back") > back, "a gpu-let serves again")
                seen = load.count()
                until(lambda: load.count() > seen + 8, "answers")
                self.assertEqual(s.json("PUT", "/v2/gpulet/plan", less)[0], 200)
                self.assertEqual(s.json("PUT", "/v2/gpulet/plan", whole)[0], 200)
            self.assertEqual(self.failed(load), [])

    def test_pipelining_keeps_answers_apart(self):
        """Depth 2 on one gpu-let, single rows and many clients: each answer is its own request's (Load checks)."""
        with self.serve(
            plan_json([(0, [(16, [("a", 4), ("b", 2)])])]), self.models(null_us=500), devices="cuda:0"
        ) as s:
            loads = [self.load(s, m, clients=8) for m in ("a", "b")]
            until(lambda: all(load.count() > 500 for load in loads), "answers")
            self.assertEqual([self.failed(load) for load in loads], [[], []])

    def test_spare(self):
        """--spare: the worker that waits takes over; with a process per gpu-let there is none."""
        with self.serve(self.two(), self.models(), "--spare") as s:
            spares = lambda: {
                x["device"]: x["pid"] for x in s.json("GET", "/debug/server")[1]["spares"] if x["prepared"]
            }
            if self.isolation == "process":
                until(lambda: self.all_serve(s), "all serve")
                self.assertEqual(spares(), {})
                return
            loads = [self.load(s, m, clients=4) for m in ("a", "b")]
            for gpu in (0, 1, 0):
                until(lambda: len(spares()) == 2, "both spares are prepared")
                spare = spares()[f"cuda:{gpu}"]
                start = time.monotonic()
                os.kill(self.workers(s, gpu)[0], signal.SIGKILL)
                until(lambda: self.workers(s, gpu) == [spare] and self.all_serve(s), "the spare serves")
                say(f"{self.isolation}: the spare serves after {time.monotonic() - start:.2f} s")
            self.assertEqual([o for load in loads for o in self.failed(load) if o[2] not in (500, 503)], [])

    def test_plan_changes_under_load(self):
        other = plan_json([(0, [(8, [("a", 4)]), (8, [("b", 4)])]), (1, [(16, [("a", 8), ("b", 8)])])])
        with self.serve(self.two(), self.models()) as s:
            loads = [self.load(s, m, clients=3) for m in ("a", "b")]
            for k in range(4):
                seen = [load.count() for load in loads]
                until(lambda: all(load.count() > n + 10 for load, n in zip(loads, seen)), "requests go on")
                began = time.monotonic()
                status, doc = s.json("PUT", "/v2/gpulet/plan", (other, self.two())[k % 2])
                self.assertEqual(status, 200, doc)
                say(f"{self.isolation}: plan change {time.monotonic() - began:.2f} s")
            self.assertEqual([self.failed(load) for load in loads], [[], []])
            self.assertEqual(s.metrics()["gpulet_worker_restarts"], 0)

    def hit(self, name, strike, env=None, word=""):
        """|strike| hurts device 0 only: it is back soon, device 1 keeps its processes, its answers and its pace."""
        with self.serve(self.two(), self.models(), env=env) as s:
            load, neighbour = self.load(s, "a", clients=4), self.load(s, "b", clients=2)
            until(lambda: load.count() > 50 and neighbour.count() > 50, "load runs")
            victims, others = self.workers(s, 0), self.workers(s, 1)
            began, steps = time.monotonic(), [time.monotonic()]
            strike(s, victims)
            until(lambda: s.metrics()["gpulet_worker_restarts"] >= 1, f"{name}: a worker is replaced")
            until(
                lambda: len(self.workers(s, 0)) == len(victims) and self.workers(s, 0) != victims and self.all_serve(s),
                f"{name}: back",
            )
            took = time.monotonic() - began
            seen = neighbour.count()
            until(lambda: neighbour.count() > seen + 20, "the neighbour goes on")
            outcomes = neighbour.stop()
            self.assertEqual([o for o in outcomes if o[2] != 200], [])
            slow = max(o[1] for o in outcomes if o[0] > began)
            say(
                f"{self.isolation}: {name}: serves again after {took:.2f} s; "
                f"slowest answer of the other device meanwhile {slow * 1e3:.0f} ms"
            )
            self.assertEqual(self.workers(s, 1), others, "the other device did not notice")
            lost = load.stop()
            self.assertEqual([o for o in lost if o[2] != 200], [], "device 1 serves the model too: nothing is lost")
            m = s.metrics()
            self.assertEqual(m["gpulet_worker_restarts"], 1)
            self.assertEqual(m["gpulet_requests_in_flight"], 0)
            self.assertIn(word, s.log())

    def test_killed(self):
        self.hit("SIGKILL", lambda s, pids: os.kill(pids[0], signal.SIGKILL), word="signal 9")

    def test_hung_kernel(self):
        self.hit(
            "hung kernel",
            lambda s, pids: self.fault(0, "kernel", HANG),
            env={"GPULET_WATCHDOG_MS": "1000"},
            word="did not finish within",
        )

    def test_sticky_error(self):
        self.hit("sticky error", lambda s, pids: self.fault(0, "kernel", ILLEGAL_ADDRESS), word="ILLEGAL_ADDRESS")

    def test_failed_call(self):
        self.hit("failed launch", lambda s, pids: self.fault(0, "cuGraphLaunch", INVALID_HANDLE), word="cuGraphLaunch")

    def test_gpulets_come_back_one_by_one(self):
        """A dead worker's first gpu-let serves while the others are still being prepared; further sizes come later."""
        if self.isolation != "device":
            self.skipTest("one process per gpu-let: they come back apart anyway")
        models = {"a": gpu_model("a"), "slow": gpu_model("slow", null_us=150000)}
        with self.serve(
            plan_json([(0, [(4, [("slow", 8)]), (4, [("slow", 4)]), (8, [("a", 8)])])]), models, devices="cuda:0"
        ) as s:
            until(lambda: not s.json("GET", "/v2/gpulet/plan")[1]["growing"], "all sizes are ready")
            def lets():
                group = s.json("GET", "/debug/server")[1]["groups"][0]
                return group["state"], [l["up"] for l in group["gpulets"]], group["sizes_ready"]
            whole = lets()
            self.assertEqual(whole[:2], ("serving", [True] * 3))
            pid = self.workers(s, 0)[0]
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            until(lambda: self.workers(s, 0) not in ([], [pid]), "a new worker")
            until(lambda: s.infer_floats("a", [[1.0] * 16])[0] == 200, "the cheap one serves")
            first = time.monotonic() - began
            state, up, ready = lets()
            self.assertEqual((state, up[2], all(up)), ("preparing", True, False), "long before the others")
            self.assertEqual(s.request("GET", "/v2/models/a/ready")[0], 200)
            until(lambda: lets()[0] == "serving", "all are back")
            last = time.monotonic() - began
            self.assertLess(lets()[2], whole[2], "with what they need")
            until(lambda: lets() == whole, "and all sizes")
            say(
                f"{self.isolation}: first gpu-let back after {first:.2f} s, last {last:.2f} s, "
                f"all sizes {time.monotonic() - began:.2f} s"
            )

    def test_no_memory_for_a_larger_size(self):
        """The gpu-let serves with the sizes that fit, and says why there are no others."""
        wide = 1 << 20  # floats a row: 4 MiB
        with self.serve(
            plan_json([(0, [(4, [("wide", 1)])])]),
            {"wide": gpu_model("wide", dims=wide)},
            "--arena-size",
            "256MiB",
            env={"GPULET_FAKE_CUDA_MIB": "160"},
            devices="cuda:0",
        ) as s:
            until(lambda: not s.json("GET", "/v2/gpulet/plan")[1]["growing"], "it is known what fits")
            self.assertEqual(s.json("GET", "/v2/gpulet/plan")[1]["sizes"], {"wanted": 2, "ready": 1, "failed": 1})
            row = [1.0] * wide
            self.assertEqual(s.infer_floats("wide", [row])[0], 200)
            status, text = s.infer_floats("wide", [row, row])
            self.assertEqual(status, 503, text)
            self.assertRegex(text, "2 rows could be prepared.*MiB")
            say(f"{self.isolation}: {text}")
            self.assertEqual(s.infer_floats("wide", [row])[0], 200)
            self.assertIn("serves without batch size 8", s.log())
            self.assertEqual(s.metrics()["gpulet_worker_restarts"], 0)

    def test_null_backend_is_refused(self):
        with self.serve(plan_json([(0, [(4, [("a", 8)])])]), {"a": gpu_model("a"), "host": null_model("host")}) as s:
            status, doc = s.json("PUT", "/v2/gpulet/plan", plan_json([(0, [(4, [("host", 1)])])]))
            self.assertEqual(status, 409, doc)
            self.assertIn("no GPU code", doc["error"])
            self.assertEqual(s.infer_floats("a", [[1.0] * 16])[0], 200)

    def test_out_of_memory(self):
        big = 4 << 20  # floats a row
        models = {**self.models(), "big": gpu_model("big", dims=big)}
        with self.serve(self.two(), models, env={"GPULET_FAKE_CUDA_MIB": "400"}) as s:
            load = self.load(s, "a", clients=4)
            plan = plan_json([(0, [(4, [("a", 8)]), (4, [("big", 8)])]), (1, [(4, [("b", 8)])])])
            status, doc = s.json("PUT", "/v2/gpulet/plan", plan)
            self.assertEqual(status, 409, doc)
            self.assertRegex(doc["error"], r"model 'big'.*\d+ MiB.* of 400 MiB")
            say(f"{self.isolation}: {doc['error']}")
            # so many gpu-lets of one device that their workspaces do not fit (each process has its own 400 MiB in the
            # fake)
            if self.isolation == "device":
                status, doc = s.json("PUT", "/v2/gpulet/plan", plan_json([(0, [(1, [("a", 1)])] * 14)]))
                self.assertEqual(status, 409, doc)
                self.assertRegex(doc["error"], r"OUT_OF_MEMORY.* of 400.* are free")
                say(f"{self.isolation}: {doc['error']}")
            self.assertEqual(s.json("GET", "/v2/gpulet/plan")[1]["generation"], 1)
            self.assertTrue(self.all_serve(s))
            status, doc = s.json("PUT", "/v2/gpulet/plan", plan_json([(0, [(4, [("a", 8)])]), (1, [(4, [("b", 8)])])]))
            self.assertEqual(status, 200, f"what did not fit was given back: {doc}")
            self.assertEqual(self.failed(load), [])
            self.assertEqual(s.metrics()["gpulet_worker_restarts"], 0)


    def test_hung_prepare(self):
        """A worker that hangs in the driver while it prepares: the plan is rolled back, the old one serves again."""
        with self.serve(self.two(), self.models(), "--prepare-timeout", "2s") as s:
            load, neighbour = self.load(s, "a", clients=2), self.load(s, "b", clients=2)
            others = self.workers(s, 1)
            self.fault(0, "cuMemAlloc", HANG)
            began = time.monotonic()
            on_1 = json.loads(self.two())["gpus"][1]
            plan = json.loads(plan_json([(0, [(16, [("a", 2)])])]))
            plan["gpus"].append(on_1)
            status, doc = s.json("PUT", "/v2/gpulet/plan", json.dumps(plan))
            if self.isolation == "device":
                self.assertEqual(status, 409, doc)
                self.assertIn("within 2 s", doc["error"])
                until(lambda: self.all_serve(s), "the old plan serves again")
                say(
                    f"{self.isolation}: hung prepare: the old plan serves all again "
                    f"after {time.monotonic() - began:.2f} s"
                )
                self.assertEqual(s.json("GET", "/v2/gpulet/plan")[1]["generation"], 1)
                self.assertEqual(self.workers(s, 1), others)
            else:  # the fault hits a new worker, or an old one's health report: either way no answer is lost
                self.assertIn(status, (200, 409), doc)
            self.assertEqual(s.json("PUT", "/v2/gpulet/plan", json.dumps(plan))[0], 200)
            self.assertEqual([self.failed(load), self.failed(neighbour)], [[], []])


class ProcessIsolation(Base, unittest.TestCase):
    isolation = "process"

    def environment(self, pid):
        with open(f"/proc/{pid}/environ", "rb") as f:
            return dict(x.split("=", 1) for x in f.read().decode().split("\0") if "=" in x)

    def test_shares_come_from_mps(self):
        with self.serve(
            plan_json([(0, [(4, [("a", 8)]), (8, [("a", 4)])]), (1, [(16, [("b", 8)])])]), self.models()
        ) as s:
            env = [self.environment(p) for gpu in (0, 1) for p in self.workers(s, gpu)]
            self.assertEqual(sorted(int(e["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"]) for e in env), [25, 49, 100])
            where = {e["CUDA_MPS_PIPE_DIRECTORY"] for e in env}
            self.assertEqual(len(where), 1)
            directory = os.path.dirname(where.pop())
            self.assertTrue(os.path.isdir(directory))
        self.assertFalse(os.path.exists(directory), "the private directory goes with the server")

    def test_mps_daemon_killed(self):
        with self.serve(self.two(), self.models(), devices="cuda:0,1") as s:
            load = self.load(s, "a", clients=4)
            until(lambda: load.count() > 50, "load runs")
            before = self.workers(s, 0) + self.workers(s, 1)
            pipe = self.environment(before[0])["CUDA_MPS_PIPE_DIRECTORY"]
            with open(os.path.join(pipe, "pid")) as f:
                daemon = int(f.read())
            began = time.monotonic()
            os.kill(daemon, signal.SIGKILL)
            until(lambda: "the MPS daemon is back" in s.log(), "the daemon is restarted")
            until(
                lambda: len(self.workers(s, 0) + self.workers(s, 1)) == len(before) and self.all_serve(s),
                "all workers are replaced",
            )
            say(
                f"{self.isolation}: MPS daemon killed: all gpu-lets of both devices serve again "
                f"after {time.monotonic() - began:.2f} s"
            )
            self.assertEqual(set(before) & set(self.workers(s, 0) + self.workers(s, 1)), set())
            self.assertEqual(self.environment(self.workers(s, 0)[0])["CUDA_MPS_PIPE_DIRECTORY"], pipe)
            seen = load.count()
            until(lambda: load.count() > seen + 20, "requests go on")
            refused = self.failed(load)
            self.assertEqual(
                [o for o in refused if o[2] not in (500, 503) or "try again" not in o[3]],
                [],
                "with no gpu-let at all, requests are told to come again",
            )
            self.assertEqual(s.metrics()["gpulet_requests_in_flight"], 0)

    def test_without_mps(self):
        with self.serve(self.two(), self.models(), path="/nonexistent") as s:
            self.assertIn("nvidia-cuda-mps-control is not on PATH", s.log())
            self.assertIn("as with --isolation device", s.log())
            self.assertEqual(len(self.workers(s, 0)), 1)
            self.assertEqual(s.infer_floats("a", [[1.0] * 16])[0], 200)


class DeviceIsolation(Base, unittest.TestCase):
    isolation = "device"


class Profile(unittest.TestCase):
    setUp = Base.setUp

    def test_profile(self):
        """Times are those of the device: kernels of 3 and 6 ms, whatever it takes to notice that they have ended."""
        d = self.dir.name
        repository(
            os.path.join(d, "models"),
            **{m: gpu_model(m, null_us=us, max_batch=2) for m, us in (("short", 3000), ("long", 6000))},
        )
        for m in ("short", "long"):
            with open(os.path.join(d, "models", m, "1", "model.pt"), "w") as f:
                f.write("the fake engine does not read this")
        env = {**os.environ, "GPULET_CUDA_DRIVER": DRIVER, "GPULET_FAKE_CUDA_SMS": "16"}
        p = subprocess.run(
            [
                harness.GPULET,
                "profile",
                "--model-repository",
                os.path.join(d, "models"),
                "--device",
                "cuda:0",
                "--output",
                os.path.join(d, "p"),
                "--budget",
                "8s",
                "--window",
                "40ms",
                "--plugin-dir",
                PLUGIN,
                "--json",
            ],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=100,
        )
        self.assertEqual(p.returncode, 0, p.stderr)
        with open(os.path.join(d, "p", "latency.csv")) as f:
            cells = list(csv.DictReader(f))
        self.assertEqual({c["model"] for c in cells}, {"short", "long"})
        for c in cells:
            self.assertGreaterEqual(float(c["p50_ms"]), 3 if c["model"] == "short" else 6, c)
        with open(os.path.join(d, "p", "interference.csv")) as f:
            pairs = list(csv.DictReader(f))
        say(f"{len(cells)} cells, {len(pairs)} samples side by side")
        self.assertGreater(len(pairs), 0)
        for c in pairs:
            self.assertGreaterEqual(float(c["solo_ms"]), 3 if c["model"] == "short" else 6, c)


class Mixed(unittest.TestCase):
    def test_devices_of_several_kinds(self):
        """One server, one plan, two simulated GPUs and the CPU; the plan moves models between them."""
        with tempfile.TemporaryDirectory() as d:
            repository(
                os.path.join(d, "models"),
                lenet=null_model("lenet", slo_ms=20000),
                other=null_model("other", slo_ms=20000, null_us=200),
            )
            a = plan_json([(0, [(8, [("lenet", 8)])]), (1, [(16, [("lenet", 4)])]), (2, [(1, [("other", 8)])])])
            b = (
                plan_json([(0, [(16, [("lenet", 8)])]), (2, [(1, [("other", 4)]), (1, [("lenet", 2)])])])
                if (os.cpu_count() or 1) > 1
                else a
            )
            with open(os.path.join(d, "plan.json"), "w") as f:
                f.write(a)
            with Server(
                os.path.join(d, "models"), "--plan", os.path.join(d, "plan.json"), devices="sim:h200x2+cpu"
            ) as s:
                loads = [Load(s, m, clients=2) for m in ("lenet", "other")]
                try:
                    for plan in (b, a):
                        seen = [load.count() for load in loads]
                        until(lambda: all(load.count() > n + 20 for load, n in zip(loads, seen)), "answers")
                        status, doc = s.json("PUT", "/v2/gpulet/plan", plan)
                        self.assertEqual(status, 200, doc)
                    devices = {w["device"] for w in s.json("GET", "/debug/server")[1]["workers"]}
                    self.assertEqual(devices, {"sim:h200#0", "sim:h200#1", "cpu"})
                finally:
                    outcomes = [load.stop() for load in loads]
                self.assertEqual([o for some in outcomes for o in some if o[2] != 200], [])


if __name__ == "__main__":
    main()
