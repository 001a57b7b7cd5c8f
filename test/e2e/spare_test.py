"""--spare: a second worker has the plan prepared and takes the place of the first one when that is lost."""
import os
import signal
import tempfile
import unittest

from harness import Load, Server, main, null_model, plan_json, repository, until


def plan(d, name, batches):
    path = os.path.join(d, name)
    with open(path, "w") as f:
        f.write(plan_json([(0, [(4, [("lenet", b)]) for b in batches])]))
    return path


def page(s):
    return s.json("GET", "/debug/server")[1]


def prepared(s):
    """pid of the spare that is ready to take over, or None"""
    for x in page(s)["spares"]:
        if x["prepared"]:
            return x["pid"]
    return None


def serving(s):
    groups = page(s)["groups"]
    return len(groups) > 0 and all(g["state"] == "serving" for g in groups)


class Spare(unittest.TestCase):
    def server(self, d, *flags, **kwargs):
        repository(os.path.join(d, "models"), lenet=null_model("lenet", slo_ms=20000))
        return Server(
            os.path.join(d, "models"),
            "--plan",
            plan(d, "a.json", [4, 8]),
            "--spare",
            *flags,
            devices="sim:h200",
            **kwargs
        )

    def test_takes_over_again_and_again(self):
        with tempfile.TemporaryDirectory() as d, self.server(d) as s:
            load = Load(s, "lenet", clients=4)
            for n in range(4):
                until(lambda: prepared(s), "a spare is prepared")
                spare, worker = prepared(s), s.workers()
                self.assertNotIn(spare, worker)
                os.kill(worker[0], signal.SIGKILL)
                until(lambda: serving(s) and s.workers() == [spare], "the spare serves")
                seen = load.count()
                until(lambda: load.count() > seen + 20, "requests go on")
            wrong = [o for o in load.stop() if o[2] not in (200, 500, 503)]
            self.assertEqual(wrong, [])
            self.assertEqual(s.metrics()["gpulet_worker_restarts"], 4)
            self.assertEqual(s.metrics()["gpulet_requests_in_flight"], 0)

    def test_follows_the_plan(self):
        with tempfile.TemporaryDirectory() as d, self.server(d) as s:
            until(lambda: prepared(s), "a spare is prepared")
            spare = prepared(s)
            for name, batches in (("b.json", [2, 4, 8]), ("c.json", [8]), ("d.json", [1, 2])):
                with open(plan(d, name, batches)) as f:
                    self.assertEqual(s.json("PUT", "/v2/gpulet/plan", f.read())[0], 200)
            until(lambda: s.log().count("is prepared") >= 2 and prepared(s), "the spare has the new plan")
            self.assertEqual(prepared(s), spare)
            os.kill(s.workers()[0], signal.SIGKILL)
            until(lambda: serving(s) and s.workers() == [spare], "the spare serves")
            gpulets = page(s)["groups"][0]["gpulets"]
            self.assertEqual([g["models"][0]["batch"] for g in gpulets], [1, 2])
            self.assertEqual(s.infer_floats("lenet", [[1.0] * 16])[0], 200)

    def test_spare_that_hangs_is_replaced(self):
        with tempfile.TemporaryDirectory() as d, self.server(
            d, "--prepare-timeout", "2s", env={"GPULET_WATCHDOG_MS": "1000"}
        ) as s:
            until(lambda: prepared(s), "a spare is prepared")
            spare, worker = prepared(s), s.workers()
            os.kill(spare, signal.SIGSTOP)
            until(lambda: prepared(s) not in (spare, None), "another one is prepared")
            self.assertIn("was silent for", s.log())
            self.assertEqual(s.workers(), worker)

    def test_death_of_the_spare_is_nobodys_business(self):
        with tempfile.TemporaryDirectory() as d, self.server(d) as s:
            until(lambda: prepared(s), "a spare is prepared")
            load, worker, spare = Load(s, "lenet", clients=4), s.workers(), prepared(s)
            os.kill(spare, signal.SIGKILL)
            until(lambda: prepared(s) not in (None, spare), "another spare is prepared")
            self.assertEqual({o[2] for o in load.stop()}, {200})
            self.assertEqual(s.workers(), worker)
            self.assertEqual(s.metrics()["gpulet_worker_restarts"], 0)

    def test_both_die(self):
        with tempfile.TemporaryDirectory() as d, self.server(d) as s:
            until(lambda: prepared(s), "a spare is prepared")
            spare, worker = prepared(s), s.workers()
            for pid in (spare, worker[0]):
                os.kill(pid, signal.SIGKILL)
            until(lambda: serving(s) and s.workers() != worker and spare not in s.workers(), "a third worker serves")
            until(lambda: prepared(s), "it has a spare, too")
            self.assertEqual(s.infer_floats("lenet", [[1.0] * 16])[0], 200)

    def test_gone_with_the_server(self):
        with tempfile.TemporaryDirectory() as d, self.server(d) as s:
            until(lambda: prepared(s), "a spare is prepared")
            spare = prepared(s)
            s.stop()
            with self.assertRaises(ProcessLookupError):
                os.kill(spare, 0)


if __name__ == "__main__":
    main()
