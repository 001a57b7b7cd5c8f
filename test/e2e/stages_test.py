"""Where the time of requests goes (/v2/gpulet/stages), what was learnt is forgotten, which SLO is in force, and that
there is no deadline without one."""

import statistics
import tempfile
import threading
import time
import unittest

from harness import Server, main, null_model, repository

STAGES = ["received", "admitted", "batched", "submitted", "started", "finished", "answered"]


def plan(slo_ms=None, name="slow"):
    return {
        "policy": "test",
        "feasible": True,
        "gpus_used": 1,
        "lower_bound_gpus": 0,
        "time_ms": 0,
        "reasons": [],
        "gpus": [
            {
                "id": 0,
                "gpulets": [
                    {"granules": 1, "models": [{"name": name, "batch": 1, **({"slo_ms": slo_ms} if slo_ms else {})}]}
                ],
            }
        ],
    }


class Stages(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def models(self, **models):
        return repository(self.dir.name, **models)

    def stages(self, s, model):
        status, doc = s.json("GET", "/v2/gpulet/stages")
        self.assertEqual(status, 200)
        return next(m for m in doc["models"] if m["name"] == model)

    def ask(self, s, model, n, **parameters):
        """Statuses and the client's latencies in ms, one request after the other."""
        conn, out = s.connect(), []
        for i in range(n):
            start = time.monotonic()
            status = s.infer_floats(model, [[float(i)] * 16], conn, parameters=parameters)[0]
            out.append((status, (time.monotonic() - start) * 1e3))
        conn.close()
        return [o[0] for o in out], [o[1] for o in out]

    def at_once(self, s, model, n):
        got, threads = [], []
        for _ in range(n):
            threads.append(threading.Thread(target=lambda: got.extend(self.ask(s, model, 1)[0])))
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return got

    def test_stages_add_up_to_the_latency(self):
        with Server(self.models(busy=null_model("busy", null_us=5000), idle=null_model("idle")), devices="cpu:0") as s:
            statuses, latencies = self.ask(s, "busy", 40)
            self.assertEqual(statuses, [200] * 40)
            m, metrics = self.stages(s, "busy"), s.metrics()
            self.assertEqual(list(m["stages"]), STAGES)
            self.assertEqual((m["requests"], m["refused_door"], m["dropped_queue"]), (40, 0, 0))
            for name, x in m["stages"].items():
                self.assertEqual(x["count"], 40, name)
                self.assertEqual(sum(n for _, n in x["hist"]), 40, name)
                self.assertAlmostEqual(x["sum_ms"], x["mean_ms"] * 40, delta=1e-3 * x["sum_ms"] + 1e-6)
                self.assertLessEqual(x["p50_ms"], x["p99_ms"])
            self.assertGreaterEqual(m["stages"]["finished"]["p50_ms"], 5 * 0.98)
            # From the last byte received to the last byte handed to the kernel, as the server's own duration has it ...
            whole = sum(m["stages"][k]["sum_ms"] for k in STAGES[1:])
            self.assertAlmostEqual(
                whole, metrics['nv_inference_request_duration_us{model="busy",version="1"}'] / 1e3, delta=0.001
            )
            # ... and with the bytes on their way in it is no longer than what the client saw.
            self.assertLess(whole + m["stages"]["received"]["sum_ms"], sum(latencies))
            self.assertEqual(self.stages(s, "idle")["requests"], 0)
            self.assertEqual(
                self.stages(s, "idle")["stages"]["answered"],
                {"mean_ms": 0, "p50_ms": 0, "p99_ms": 0, "count": 0, "sum_ms": 0, "hist": []},
            )
            self.assertEqual(
                metrics["gpulet_loop_lag_seconds_count"], metrics['nv_inference_exec_count{model="busy",version="1"}']
            )
            self.assertGreater(metrics["gpulet_decision_gap_seconds_count"], 80)
            self.assertGreater(metrics["gpulet_decision_gap_max_seconds"], 0)
            loop = s.json("GET", "/debug/server")[1]["loop"]
            self.assertGreater(loop["lag"]["count"], 0)
            self.assertGreaterEqual(loop["decision_gap"]["max_ms"], loop["decision_gap"]["p99_ms"])

    def test_large_answers_are_timed_to_their_last_byte(self):
        with Server(self.models(big=null_model("big", max_batch=1, dims=500000)), devices="cpu:0") as s:
            conn = s.connect()
            row = [1.0] * 500000
            for _ in range(3):
                self.assertEqual(s.infer_floats("big", [row], conn), (200, [row]))
            conn.close()
            m = self.stages(s, "big")["stages"]
            self.assertEqual(m["answered"]["count"], 3)
            self.assertGreater(
                m["answered"]["mean_ms"], m["submitted"]["mean_ms"]
            )  # 2 MB take longer than a ring entry

    def test_refusals_are_told_apart(self):
        with Server(self.models(slow=null_model("slow", max_batch=1, null_us=50000, slo_ms=170)), devices="cpu:0") as s:
            self.assertEqual(self.ask(s, "slow", 3, timeout=1000)[0], [503] * 3)
            m = self.stages(s, "slow")
            self.assertEqual((m["requests"], m["refused_door"], m["dropped_queue"]), (3, 3, 0))
            got = self.at_once(s, "slow", 10)  # three fit into the SLO
            m = self.stages(s, "slow")
            self.assertEqual(m["requests"], 13)
            self.assertEqual(m["refused_door"] + m["dropped_queue"], 3 + got.count(503))
            self.assertEqual(m["stages"]["answered"]["count"], got.count(200))
            self.assertEqual(got.count(200) + got.count(503), 10)

    def test_forget(self):
        with Server(self.models(null=null_model()), devices="cpu:0") as s:
            self.ask(s, "null", 5)
            self.assertEqual(self.stages(s, "null")["stages"]["finished"]["count"], 5)
            self.assertEqual(s.json("GET", "/v2/gpulet/forget")[0], 405)
            self.assertEqual(s.json("POST", "/v2/gpulet/forget"), (200, {"forgotten": True}))
            m = self.stages(s, "null")
            self.assertEqual((m["stages"]["finished"]["count"], m["requests"]), (0, 5))
            self.ask(s, "null", 2)
            m = self.stages(s, "null")
            self.assertEqual((m["stages"]["finished"]["count"], m["requests"]), (2, 7))

    def test_the_plans_slo_counts(self):
        with Server(
            self.models(slow=null_model("slow", max_batch=1, null_us=50000, slo_ms=1000)), devices="cpu:0"
        ) as s:

            def serve(slo_ms):
                self.assertEqual(s.json("PUT", "/v2/gpulet/plan", plan(slo_ms))[0], 200)
                status, text = s.infer_floats("slow", [[1.0] * 16])
                config = s.json("GET", "/v2/models/slow/config")[1]["parameters"]["slo_ms"]["string_value"]
                return status, config, text

            self.assertEqual(serve(None)[:2], (200, "1000"))
            status, config, text = serve(20)
            self.assertEqual((status, config), (503, "20"))
            self.assertIn("20.0 ms", text)
            self.assertEqual(serve(2000)[:2], (200, "2000"))
            self.assertEqual(serve(None)[:2], (200, "1000"), "a plan that names none falls back to config.pbtxt's")

    def test_no_deadline_without_an_slo(self):
        with Server(
            self.models(slow=null_model("slow", max_batch=1, null_us=50000, slo_ms=None)), devices="cpu:0"
        ) as s:
            self.assertEqual(self.at_once(s, "slow", 30), [200] * 30)  # the last one waits for 1.5 s
            metrics = s.metrics()
            self.assertEqual(metrics['gpulet_requests_in_slo{model="slow",version="1"}'], 30)
            self.assertEqual(metrics['gpulet_slo_attainment{model="slow",version="1"}'], 1)
            self.assertEqual(self.stages(s, "slow")["late"], 0)
            self.assertNotIn("parameters", s.json("GET", "/v2/models/slow/config")[1])
            self.assertEqual(self.ask(s, "slow", 1, timeout=1000)[0], [503])  # this one asked for a deadline
        with Server(self.dir.name, "--default-slo", "20ms", devices="cpu:0") as s:
            # The first one finds out whether it takes as long as the worker measured at the start.
            self.assertEqual(self.ask(s, "slow", 3)[0], [200, 503, 503])
            self.assertEqual(self.stages(s, "slow")["late"], 1)

    def test_one_client_sees_the_same_latency_with_and_without_an_slo(self):
        with Server(
            self.models(
                with_slo=null_model("with_slo", max_batch=32, null_us=4000, slo_ms=400, delay_us=None),
                without=null_model("without", max_batch=32, null_us=4000, slo_ms=None, delay_us=None),
            ),
            devices="cpu:0",
        ) as s:
            for m in ("with_slo", "without"):
                self.ask(s, m, 20)
            median = {m: statistics.median(self.ask(s, m, 60)[1]) for m in ("with_slo", "without")}
            self.assertLess(abs(median["with_slo"] - median["without"]), 1.5, median)

    def test_a_closed_loop_on_a_fresh_server_is_not_refused(self):
        """Four clients back to back, from the first request on: 4 * 37 ms of 600 are needed, so nothing may be refused,
        although so far nothing is known but what the worker measured at the start."""
        batches = {"max_batch": 8, "null_us": 37000, "slo_ms": 600}
        for delay_us in (0, None):  # with dynamic_batching, and without
            with self.subTest(delay_us=delay_us):
                with Server(self.models(m=null_model("m", delay_us=delay_us, **batches)), devices="cpu:0") as s:
                    got, threads = [], []
                    for _ in range(4):
                        threads.append(threading.Thread(target=lambda: got.append(self.ask(s, "m", 40))))
                    for t in threads:
                        t.start()
                    for t in threads:
                        t.join()
                    statuses = [status for one, _ in got for status in one]
                    self.assertEqual(statuses, [200] * 160)
                    m = self.stages(s, "m")
                    self.assertEqual((m["requests"], m["refused_door"], m["dropped_queue"]), (160, 0, 0))
                    self.assertLess(statistics.median(x for _, times in got for x in times), 4 * 37 + 50)


if __name__ == "__main__":
    main()
