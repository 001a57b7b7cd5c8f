"""Changing the plan while serving: PUT /v2/gpulet/plan and SIGHUP, on CPU and simulated devices."""
import json
import os
import signal
import tempfile
import unittest

from harness import Load, Server, main, null_model, plan_json, repository, until


class PlanChange(unittest.TestCase):
    def generation(self, s):
        return s.json("GET", "/v2/gpulet/plan")[1]["generation"]

    def exercise(self, devices, plans, models, args=()):
        with tempfile.TemporaryDirectory() as d:
            repository(os.path.join(d, "models"), **models)
            path = os.path.join(d, "plan.json")
            with open(path, "w") as f:
                f.write(plans[0])
            with Server(os.path.join(d, "models"), "--plan", path, *args, devices=devices) as s:
                loads = [Load(s, m, clients=2) for m in models]
                for k in range(6):
                    for load in loads:
                        seen = load.count()
                        until(lambda: load.count() > seen + 5, "requests go on")
                    status, doc = s.json("PUT", "/v2/gpulet/plan", plans[(k + 1) % len(plans)])
                    self.assertEqual(status, 200, doc)
                    self.assertEqual(doc["generation"], k + 2)
                    self.assertEqual(self.generation(s), k + 2)
                with open(path, "w") as f:
                    f.write(plans[1])
                s.proc.send_signal(signal.SIGHUP)
                until(lambda: self.generation(s) == 8, "SIGHUP reads --plan again")
                for load in loads:
                    outcomes = load.stop()
                    self.assertEqual([o for o in outcomes if o[2] != 200], [])
                self.assertEqual(s.metrics()["gpulet_worker_restarts"], 0)

    def test_cpu(self):
        a = plan_json([(0, [(1, [("null", 8)]), (1, [("other", 4)])])])
        b = plan_json([(0, [(2, [("null", 4), ("other", 8)])])])
        self.exercise("cpu", [a, b], {"null": null_model(slo_ms=20000), "other": null_model("other", slo_ms=20000)})

    def test_sim(self):
        a = plan_json([(0, [(4, [("lenet", 8)]), (12, [("mobilenet_v2", 4)])])])
        b = plan_json([(0, [(16, [("lenet", 4)])]), (1, [(8, [("mobilenet_v2", 8)]), (8, [("lenet", 8)])])])
        self.exercise(
            "sim:h200x2",
            [a, b],
            {"lenet": null_model("lenet", slo_ms=20000), "mobilenet_v2": null_model("mobilenet_v2", slo_ms=20000)},
        )

    def test_requests_may_be_larger_than_the_planned_batch(self):
        with tempfile.TemporaryDirectory() as d:
            # 0.1 s a batch: the sizes beyond the planned one, of both models, take seconds to measure
            repository(
                os.path.join(d, "models"),
                null=null_model(slo_ms=20000, null_us=100000),
                other=null_model("other", slo_ms=20000, null_us=100000),
            )
            path = os.path.join(d, "plan.json")
            with open(path, "w") as f:
                f.write(plan_json([(0, [(1, [("null", 2), ("other", 2)])])]))
            with Server(os.path.join(d, "models"), "--plan", path) as s:
                plan = s.json("GET", "/v2/gpulet/plan")[1]
                self.assertTrue(plan["growing"])
                self.assertEqual(plan["sizes"]["wanted"], 6)
                self.assertEqual(s.request("GET", "/v2/health/ready")[0], 200)
                rows = [[float(i)] * 16 for i in range(8)]
                status, text = s.infer_floats("null", rows)
                self.assertEqual(status, 503, text)
                self.assertIn("being prepared", text)
                for n in (1, 2):  # meanwhile what fits the planned batch is served
                    self.assertEqual(s.infer_floats("null", rows[:n]), (200, rows[:n]))
                until(lambda: not s.json("GET", "/v2/gpulet/plan")[1]["growing"], "all sizes are ready")
                for n in (1, 2, 3, 8):  # config.pbtxt promises 8
                    self.assertEqual(s.infer_floats("null", rows[:n]), (200, rows[:n]))
                self.assertEqual(s.infer_floats("null", rows + rows[:1])[0], 400)
                # who was seen to send eight rows keeps them through a change of plan
                again = json.loads(plan_json([(0, [(1, [("null", 4), ("other", 2)])])]))
                again.update(
                    {k: v for k, v in plan.items() if k in ("growing", "sizes", "generation")}
                )  # as GET gave it
                self.assertEqual(s.json("PUT", "/v2/gpulet/plan", again)[0], 200)
                self.assertEqual(s.infer_floats("null", rows), (200, rows))
                self.assertTrue(s.json("GET", "/v2/gpulet/plan")[1]["growing"])

    def test_changes_and_deaths_while_growing(self):
        """Load, plan changes one after the other and a killed worker, all before the last size is ready."""
        with tempfile.TemporaryDirectory() as d:
            repository(os.path.join(d, "models"), null=null_model(slo_ms=20000, null_us=60000))
            plans = [plan_json([(0, [(1, [("null", b)]), (1, [("null", b)])])]) for b in (2, 3, 4)]
            path = os.path.join(d, "plan.json")
            with open(path, "w") as f:
                f.write(plans[0])
            with Server(os.path.join(d, "models"), "--plan", path) as s:
                load = Load(s, clients=3)
                self.assertTrue(s.json("GET", "/v2/gpulet/plan")[1]["growing"])
                for k in range(3):
                    status, doc = s.json("PUT", "/v2/gpulet/plan", plans[(k + 1) % 3])
                    self.assertEqual(status, 200, doc)
                    seen = load.count()
                    os.kill(s.workers()[0], signal.SIGKILL)
                    until(
                        lambda: s.metrics()["gpulet_worker_restarts"] == k + 1
                        and all(g["state"] == "serving" for g in s.json("GET", "/debug/server")[1]["groups"]),
                        "it is replaced",
                    )
                    until(lambda: load.count() > seen + 10, "requests go on")
                until(lambda: not s.json("GET", "/v2/gpulet/plan")[1]["growing"], "all sizes are ready in the end")
                rows = [[float(i)] * 16 for i in range(8)]
                self.assertEqual(s.infer_floats("null", rows), (200, rows))
                self.assertEqual(
                    [o for o in load.stop() if o[2] != 200], [], "the other gpu-let had all the time it needed"
                )

    def test_bad_plans_change_nothing(self):
        with tempfile.TemporaryDirectory() as d:
            with Server(repository(d, null=null_model(slo_ms=20000))) as s:
                load = Load(s, clients=2)
                for text, word in [
                    ("{", "request body:1"),
                    (plan_json([(0, [(1, [("nope", 1)])])]), "nope"),
                    (plan_json([(7, [(1, [("null", 1)])])]), "gpu 7"),
                    (plan_json([(0, [(99, [("null", 1)])])]), "granules"),
                    (plan_json([(0, [(1, [("null", 99)])])]), "batch"),
                    (plan_json([]), ""),
                ]:
                    status, doc = s.json("PUT", "/v2/gpulet/plan", text)
                    self.assertIn(status, (400, 404), doc)
                    self.assertIn(word, doc["error"])
                self.assertEqual(self.generation(s), 1)
                self.assertEqual([o for o in load.stop() if o[2] != 200], [])

    def test_failing_prepare_leaves_the_old_plan_serving(self):
        with tempfile.TemporaryDirectory() as d:
            # sim devices refuse a model that their profile does not know: found out only while preparing
            repository(d, lenet=null_model("lenet", slo_ms=20000), unknown=null_model("unknown"))
            path = os.path.join(d, "plan.json")
            with open(path, "w") as f:
                f.write(plan_json([(0, [(4, [("lenet", 8)])])]))
            with Server(d, "--plan", path, devices="sim:h200") as s:
                load = Load(s, "lenet", clients=2)
                status, doc = s.json(
                    "PUT", "/v2/gpulet/plan", plan_json([(0, [(4, [("lenet", 8)]), (4, [("unknown", 1)])])])
                )
                self.assertEqual(status, 409)
                self.assertIn("unknown", doc["error"])
                self.assertEqual(self.generation(s), 1)
                self.assertEqual([o for o in load.stop() if o[2] != 200], [])


if __name__ == "__main__":
    main()
