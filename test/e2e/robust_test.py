"""What must not happen whatever clients, workers and operators do: hangs, leaks, busy loops, wrong counts."""

import json
import os
import signal
import socket
import tempfile
import threading
import time
import unittest

from harness import Load, Server, main, null_model, plan_json, repository, until

ROW = [float(i) for i in range(16)]


def fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def generation(s):
    return s.json("GET", "/v2/gpulet/plan")[1]["generation"]


def all_serving(s):
    doc = s.json("GET", "/debug/server")[1]
    return not doc["changing"] and all(g["state"] == "serving" for g in doc["groups"])


def replace(s, how):
    """Harms the workers and waits until others serve in their place."""
    old = set(s.workers())
    if callable(how):
        how()
    else:
        for w in old:
            os.kill(w, how)
    until(lambda: s.workers() and not old & set(s.workers()) and all_serving(s), "the workers are replaced")


def write(path, text):
    with open(path, "w") as f:
        f.write(text)
    return path


def infer_bytes(model="null", shape=(1, 16), parameters=None):
    n = 1
    for x in shape:
        n *= x
    raw = bytes(4 * n)
    head = json.dumps(
        {
            "inputs": [
                {"name": "IN", "datatype": "FP32", "shape": list(shape), "parameters": {"binary_data_size": len(raw)}}
            ],
            "parameters": {"binary_data_output": True, **(parameters or {})},
        }
    ).encode()
    return (f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(head) + len(raw)}\r\n"
            f"Inference-Header-Content-Length: {len(head)}\r\n\r\n").encode() + head + raw


def freeze(pid):
    """Returns when every thread of it stands still: the signal alone is only the beginning."""
    def state(task):
        with open(f"/proc/{pid}/task/{task}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: all(state(t) == "T" for t in os.listdir(f"/proc/{pid}/task")), "the worker stands still")


def start_endless_batch(s):
    """A request that is running until its worker gets SIGCONT (or the server loses patience with it)."""
    worker = s.workers()[0]
    freeze(worker)
    c = socket.create_connection(("127.0.0.1", s.port))
    c.sendall(infer_bytes())
    until(lambda: s.json("GET", "/debug/core")[1]["models"][0]["running"] == 1, "the batch runs")
    return c, worker


def at_rest(case, s):
    """Nothing is held, and every request received was answered in one way."""
    until(lambda: s.metrics()["gpulet_requests_in_flight"] == 0, "requests end")
    m = s.metrics()
    case.assertEqual(m["gpulet_arena_used_bytes"], 0)
    for key, received in m.items():
        if not key.startswith("gpulet_requests_received{"):
            continue
        label = key[key.index("{") + 1:-1]
        failed = sum(v for k, v in m.items() if k.startswith("nv_inference_request_failure{" + label))
        case.assertEqual(m["nv_inference_pending_request_count{" + label + "}"], 0)
        case.assertEqual(received, m["nv_inference_request_success{" + label + "}"] + failed, label)
    return m


class Changes(unittest.TestCase):
    def test_two_workers_fail_to_prepare(self):
        with tempfile.TemporaryDirectory() as d:
            repository(
                d,
                lenet=null_model("lenet", slo_ms=20000),
                unknown=null_model("unknown"),
                **{"unknown2": null_model("unknown2")},
            )
            path = write(os.path.join(d, "plan.json"), plan_json([(0, [(4, [("lenet", 8)])])]))
            with Server(d, "--plan", path, devices="sim:h200x4") as s:
                for _ in range(3):
                    bad = plan_json([(i, [(4, [("unknown", 1)])]) for i in range(4)])
                    self.assertEqual(s.json("PUT", "/v2/gpulet/plan", bad)[0], 409)
                    self.assertEqual(s.infer_floats("lenet", [ROW])[0], 200)
                status, doc = s.json("PUT", "/v2/gpulet/plan", plan_json([(1, [(8, [("lenet", 4)])])]))
                self.assertEqual(status, 200, doc)
                self.assertEqual(s.infer_floats("lenet", [ROW])[0], 200)

    def test_new_plan_that_kills_the_shared_worker(self):
        with tempfile.TemporaryDirectory() as d:
            repository(d, lenet=null_model("lenet", slo_ms=60000, max_batch=1))
            path = write(os.path.join(d, "plan.json"), plan_json([(0, [(4, [("lenet", 1)])])]))
            # one size is prepared for the first plan; whoever prepares a second dies
            with Server(d, "--plan", path, devices="sim:h200", env={"GPULET_FAULT": "prepare:2"}) as s:
                status, doc = s.json("PUT", "/v2/gpulet/plan", plan_json([(0, [(8, [("lenet", 1)])])]))
                self.assertEqual(status, 409, doc)
                self.assertEqual(generation(s), 1)
                until(lambda: all_serving(s), "the old plan serves again")
                self.assertEqual(s.infer_floats("lenet", [ROW])[0], 200)
                at_rest(self, s)

    def test_one_change_at_a_time_and_clients_that_leave(self):
        with tempfile.TemporaryDirectory() as d:
            repository(d, null=null_model(slo_ms=60000, max_batch=4))
            path = write(os.path.join(d, "plan.json"), plan_json([(0, [(1, [("null", 1)])])]))
            with Server(d, "--plan", path) as s:
                c, worker = start_endless_batch(s)
                put = socket.create_connection(("127.0.0.1", s.port))  # drains until that batch is done
                body = plan_json([(0, [(1, [("null", 2)])])]).encode()
                put.sendall(b"PUT /v2/gpulet/plan HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                until(lambda: s.json("GET", "/debug/server")[1]["changing"], "the change is under way")
                self.assertEqual(s.json("PUT", "/v2/gpulet/plan", plan_json([(0, [(1, [("null", 4)])])]))[0], 409)
                s.proc.send_signal(signal.SIGHUP)
                put.close()
                os.kill(worker, signal.SIGCONT)
                self.assertIn(b" 200 ", c.recv(65536).split(b"\r\n")[0])
                c.close()
                until(lambda: generation(s) == 3 and all_serving(s), "SIGHUP's plan comes after it")
                at_rest(self, s)
                self.assertEqual(s.json("PUT", "/v2/gpulet/plan", plan_json([(0, [(1, [("null", 4)])])]))[0], 200)

    def test_nothing_leaks_per_change_or_restart(self):
        with tempfile.TemporaryDirectory() as d:
            repository(d, lenet=null_model("lenet", slo_ms=20000))
            plans = [
                plan_json([(0, [(4, [("lenet", 8)]), (8, [("lenet", 4)])])]),
                plan_json([(0, [(16, [("lenet", 2)])])]),
            ]
            path = write(os.path.join(d, "plan.json"), plans[0])
            with Server(d, "--plan", path, devices="sim:h200") as s:
                def change(n):
                    for k in range(n):
                        self.assertEqual(s.json("PUT", "/v2/gpulet/plan", plans[(k + 1) % 2])[0], 200)
                        self.assertEqual(s.infer_floats("lenet", [ROW])[0], 200)
                change(4)
                worker = s.workers()[0]
                before = fds(s.proc.pid), fds(worker)
                change(50)
                self.assertEqual(s.workers(), [worker])
                until(lambda: (fds(s.proc.pid), fds(worker)) <= before, f"descriptors: {before} before")
                for _ in range(5):
                    replace(s, signal.SIGKILL)
                until(lambda: fds(s.proc.pid) <= before[0], f"descriptors: {before} before")
                at_rest(self, s)

    def test_workers_that_die_while_they_go(self):
        with tempfile.TemporaryDirectory() as d:
            repository(d, null=null_model(slo_ms=20000))
            plans = [plan_json([(0, [(1, [("null", b)]), (1, [("null", b)])])]) for b in (8, 4)]
            path = write(os.path.join(d, "plan.json"), plans[0])
            with Server(d, "--plan", path) as s:
                load = Load(s, clients=2)
                for k in range(6):
                    victims = s.workers()
                    answer = []
                    t = threading.Thread(
                        target=lambda: answer.append(s.json("PUT", "/v2/gpulet/plan", plans[(k + 1) % 2]))
                    )
                    t.start()
                    os.kill(victims[k % len(victims)], signal.SIGKILL)
                    t.join()
                    self.assertEqual(answer[0][0], 200, answer)
                    until(lambda: all_serving(s), "it serves")
                self.assertEqual([o for o in load.stop() if o[2] not in (200, 503)], [])
                at_rest(self, s)


class Workers(unittest.TestCase):
    def test_worker_that_hangs_is_replaced(self):
        with tempfile.TemporaryDirectory() as d:
            repository(d, null=null_model(slo_ms=60000))
            with Server(d, env={"GPULET_WATCHDOG_MS": "1000"}) as s:
                answer = []
                def ask():
                    freeze(s.workers()[0])
                    answer.append(s.infer_floats("null", [ROW]))
                replace(s, ask)
                self.assertIn(
                    answer[0][0], (200, 500, 503), answer
                )  # nobody else can run it: maybe an error, but an answer
                self.assertEqual(s.infer_floats("null", [ROW])[0], 200)
                at_rest(self, s)

    def test_hanging_worker_does_not_outlive_its_server(self):
        with tempfile.TemporaryDirectory() as d:
            s = Server(repository(d, null=null_model()))
            try:
                worker = s.workers()[0]
                freeze(worker)
            finally:
                s.kill()
            def gone():
                try:
                    with open(f"/proc/{worker}/stat") as f:
                        return f.read().rsplit(")", 1)[1].split()[0] == "Z"
                except FileNotFoundError:
                    return True
            until(gone, "the worker goes with its server")

    def test_idle_means_idle(self):
        with tempfile.TemporaryDirectory() as d:
            with Server(repository(d, null=null_model(slo_ms=20000))) as s:
                self.assertEqual(s.infer_floats("null", [ROW])[0], 200)
                replace(s, signal.SIGKILL)
                pids = [s.proc.pid, *s.workers()]
                before, start = [cpu_seconds(p) for p in pids], time.monotonic()
                threading.Event().wait(3)
                wall = time.monotonic() - start
                used = [b - a for a, b in zip(before, [cpu_seconds(p) for p in pids])]
                self.assertLess(max(used), 0.05 * wall, f"{used} CPU seconds in {wall:.1f} s without a request")


class Requests(unittest.TestCase):
    def test_every_failure_gives_everything_back(self):
        with tempfile.TemporaryDirectory() as d:
            repository(
                d,
                null=null_model(slo_ms=2000),
                slow=null_model("slow", max_batch=1, null_us=200000, slo_ms=30000),
                unplanned=null_model("unplanned"),
            )
            path = write(os.path.join(d, "plan.json"), plan_json([(0, [(1, [("null", 2)]), (1, [("slow", 1)])])]))
            with Server(d, "--plan", path) as s:
                self.assertEqual(s.infer_floats("unplanned", [ROW])[0], 503)
                self.assertEqual(s.infer_floats("null", [ROW] * 3)[0], 200)  # more rows than the plan's batch
                self.assertEqual(s.infer_floats("null", [ROW] * 9)[0], 400)  # more than the model's
                good = {"inputs": [{"name": "IN", "datatype": "FP32", "shape": [1, 16], "data": ROW}]}
                for timeout, allowed in (
                    (0, (200,)),
                    (1, (503,)),
                    (-1, (400,)),
                    ("1s", (400,)),
                    (10**15, (200,)),
                    (2**62, (400,)),
                    (2**70, (400,)),
                    (1.5, (400,)),
                ):
                    status, doc = s.json("POST", "/v2/models/null/infer", {**good, "parameters": {"timeout": timeout}})
                    self.assertIn(status, allowed, (timeout, doc))
                for shape in ([2**62, 16], [2**63 - 1, 2**63 - 1], [-1, 16], [0, 16], [1, 16, 1], []):
                    status, doc = s.json(
                        "POST", "/v2/models/null/infer", {"inputs": [{**good["inputs"][0], "shape": shape}]}
                    )
                    self.assertEqual(status, 400, (shape, doc))
                # clients that leave: before the body, inside it, while queued, while running
                for cut in (20, 150, -3, None):
                    for model in ("null", "slow"):
                        cs = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(5)]
                        for c in cs:
                            c.sendall(infer_bytes(model)[:cut])
                        for k, c in enumerate(cs):
                            if k % 2:  # a reset instead of an end
                                c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                            c.close()
                # pipelined: one answer after the other
                c = socket.create_connection(("127.0.0.1", s.port))
                c.sendall(infer_bytes() * 20 + b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                data = b""
                while chunk := c.recv(65536):
                    data += chunk
                c.close()
                self.assertEqual(data.count(b"HTTP/1.1 200 OK"), 21)
                m = at_rest(self, s)
                self.assertGreater(m['nv_inference_request_failure{model="slow",version="1",reason="CANCELED"}'], 0)

    def test_full_arena_recovers(self):
        with tempfile.TemporaryDirectory() as d:
            repository(d, big=null_model("big", max_batch=1, dims=60000, slo_ms=30000, null_us=20000))
            with Server(d, "--arena-size", "1MiB") as s:
                load = Load(s, "big", clients=8, width=60000)  # 240 kB in, 240 kB out, each: two at once
                until(lambda: load.count() > 40, "requests go on")
                outcomes = load.stop()
                self.assertEqual([o for o in outcomes if o[2] not in (200, 503)], [])
                self.assertGreater(sum(o[2] == 200 for o in outcomes), 0)
                self.assertGreater(sum(o[2] == 503 for o in outcomes), 0)
                at_rest(self, s)
                self.assertEqual(s.infer_floats("big", [[1.0] * 60000])[0], 200)

    def test_one_huge_answer_does_not_spoil_the_rest(self):
        with tempfile.TemporaryDirectory() as d:
            repository(d, wide=null_model("wide", max_batch=8, dims=-1, slo_ms=30000))
            with Server(d, "--arena-size", "16MiB") as s:
                huge = [1.0] * 600000  # 2.4 MB: larger than any slot that was given for an answer so far
                self.assertEqual(s.infer_floats("wide", [huge]), (200, [huge]))
                self.assertEqual(s.infer_floats("wide", [ROW] * 8), (200, [ROW] * 8))
                self.assertEqual(s.infer_floats("wide", [[2.0] * 3000]), (200, [[2.0] * 3000]))
                at_rest(self, s)


class Leaving(unittest.TestCase):
    def serve_one_long_request(self, d, *args):
        repository(d, null=null_model(slo_ms=60000))
        s = Server(d, *args)
        return s, start_endless_batch(s)[0]

    def test_second_signal_leaves_at_once(self):
        with tempfile.TemporaryDirectory() as d:
            s, c = self.serve_one_long_request(d)
            try:
                s.proc.send_signal(signal.SIGTERM)
                until(lambda: "requests in flight, then leaving" in s.log(), "it drains")
                s.stop(expect=1)
                self.assertIn("second signal", s.log())
            finally:
                c.close()
                s.kill()

    def test_exit_timeout(self):
        with tempfile.TemporaryDirectory() as d:
            s, c = self.serve_one_long_request(d, "--exit-timeout", "100ms")
            try:
                s.stop(expect=1)
                self.assertIn("still in flight", s.log())
            finally:
                c.close()
                s.kill()

    def test_nothing_in_flight_is_no_failure(self):
        with tempfile.TemporaryDirectory() as d:
            with Server(repository(d, null=null_model()), "--exit-timeout", "50ms") as s:
                worker = s.workers()[0]
                freeze(worker)  # takes its time to leave: longer than that
                s.proc.send_signal(signal.SIGTERM)
                self.assertEqual(s.proc.wait(60), 0)


if __name__ == "__main__":
    main()
