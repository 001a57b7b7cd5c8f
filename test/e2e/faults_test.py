"""Workers that die at every stage, under load: nothing is lost, nothing is answered twice or with another's answer."""
import os
import signal
import tempfile
import unittest

from harness import Load, Server, main, null_model, plan_json, repository, until


def two_gpulets(d, model="null", batch=8):
    path = os.path.join(d, "plan.json")
    with open(path, "w") as f:
        f.write(plan_json([(0, [(1, [(model, batch)]), (1, [(model, batch)])])]))
    return path


class Faults(unittest.TestCase):
    def check(self, outcomes, slo_s):
        wrong = [o for o in outcomes if o[2] not in (200, 500, 503)]
        self.assertEqual(wrong, [])
        late = [o for o in outcomes if o[1] > slo_s + 20]
        self.assertEqual(late, [])
        return [o for o in outcomes if o[2] != 200]

    def test_sigkill_under_load(self):
        with tempfile.TemporaryDirectory() as d:
            repository(os.path.join(d, "models"), null=null_model(slo_ms=20000, null_us=300))
            with Server(
                os.path.join(d, "models"), "--plan", two_gpulets(d), devices="sim:h200" if os.cpu_count() < 2 else "cpu"
            ) as s:
                load = Load(s, clients=4)
                for _ in range(5):
                    before = set(s.workers())
                    seen = load.count()
                    os.kill(sorted(before)[0], signal.SIGKILL)
                    until(
                        lambda: len(set(s.workers()) - before) == 1
                        and all(g["state"] == "serving" for g in s.json("GET", "/debug/server")[1]["groups"]),
                        "a new worker serves",
                    )
                    until(lambda: load.count() > seen + 20, "requests go on")
                outcomes = load.stop()
                failed = self.check(outcomes, 20)
                self.assertEqual(failed, [], "the other gpu-let had all the time it needed")
                m = s.metrics()
                self.assertEqual(m["gpulet_worker_restarts"], 5)
                self.assertEqual(m['nv_inference_pending_request_count{model="null",version="1"}'], 0)
                self.assertEqual(m["gpulet_requests_in_flight"], 0)

    def test_death_at_every_stage(self):
        for stage in ("take", "copied", "launched", "before_done", "after_done"):
            with self.subTest(stage=stage), tempfile.TemporaryDirectory() as d:
                repository(os.path.join(d, "models"), null=null_model(slo_ms=20000))
                # every worker process, first or replacement, dies at its 40th batch
                with Server(
                    os.path.join(d, "models"), "--plan", two_gpulets(d), env={"GPULET_FAULT": f"{stage}:40"}
                ) as s:
                    load = Load(s, clients=4)
                    until(lambda: s.metrics()["gpulet_worker_restarts"] >= 3, f"workers die at {stage}")
                    outcomes = load.stop()
                    self.check(outcomes, 20)
                    self.assertGreater(sum(o[2] == 200 for o in outcomes), 50)
                    self.assertEqual(s.metrics()["gpulet_requests_in_flight"], 0)

    def test_worker_that_talks_out_of_turn(self):
        """It is killed and said so, what it says is not believed, and requests go on."""
        with tempfile.TemporaryDirectory() as d:
            repository(os.path.join(d, "models"), lenet=null_model("lenet", slo_ms=20000))
            plans = [os.path.join(d, f"{batch}.json") for batch in (4, 8)]
            for path, batch in zip(plans, (4, 8)):
                with open(path, "w") as f:
                    f.write(plan_json([(0, [(4, [("lenet", batch)])])]))
            # the second set of lanes that a worker prepares is reported twice
            models, fault = os.path.join(d, "models"), {"GPULET_FAULT": "lie:2"}
            with Server(models, "--plan", plans[0], devices="sim:h200", env=fault) as s:
                load = Load(s, "lenet", clients=2)
                until(lambda: load.count() > 5, "load runs")
                with open(plans[1]) as f:
                    s.json("PUT", "/v2/gpulet/plan", f.read())
                until(lambda: s.metrics()["gpulet_worker_restarts"] >= 1, "the worker is replaced")
                groups = lambda: s.json("GET", "/debug/server")[1]["groups"]
                until(lambda: all(g["state"] == "serving" for g in groups()), "a plan serves")
                seen = load.count()
                until(lambda: load.count() > seen + 20, "requests go on")
                self.check(load.stop(), 20)
                self.assertRegex(s.log(), r"is killed: unexpected PREPARED message: lane set \d+ is prepared already")
                self.assertEqual(s.metrics()["gpulet_requests_in_flight"], 0)

    def test_worker_that_cannot_start(self):
        for stage in ("init", "prepare"):
            with self.subTest(stage=stage), tempfile.TemporaryDirectory() as d:
                s = Server(repository(d, null=null_model()), env={"GPULET_FAULT": f"{stage}:1"}, wait=False)
                self.assertEqual(s.proc.wait(120), 1)
                self.assertIn("signal 9", s.log())
                s.kill()

    def test_only_gpulet_lost_answers_inside_the_deadline(self):
        with tempfile.TemporaryDirectory() as d:
            with Server(repository(d, null=null_model(slo_ms=2000, null_us=1000))) as s:
                load = Load(s, clients=3)
                until(lambda: load.count() > 5, "load runs")
                os.kill(s.workers()[0], signal.SIGKILL)
                seen = load.count()
                until(lambda: load.count() > seen + 20, "requests go on")
                self.check(load.stop(), 2)


if __name__ == "__main__":
    main()
