"""gpulet serve makes its own plan: --workload, --profile and --policy on simulated H200s; SIGHUP plans again."""
import json
import os
import signal
import subprocess
import tempfile
import unittest

from harness import GPULET, PATIENCE, PROFILE, Load, Server, main, null_model, repository, until

MODELS = ("lenet", "mobilenet_v2", "resnet50")


def workload(path, **rates):
    """name=(rate, slo or None)"""
    with open(path, "w") as f:
        f.write(
            "models:\n"
            + "".join(
                f"  - {{name: {n}, rate: {r}/s{', slo: ' + slo if slo else ''}}}\n" for n, (r, slo) in rates.items()
            )
        )
    return path


def entries(plan):
    return [(g["id"], m) for g in plan["gpus"] for lets in g["gpulets"] for m in lets["models"]]


class PlannedServing(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.models = repository(
            os.path.join(self.dir.name, "models"), **{m: null_model(m, slo_ms=150, max_batch=8) for m in MODELS}
        )
        self.workload = os.path.join(self.dir.name, "w.yaml")

    def tearDown(self):
        self.dir.cleanup()

    def plan(self, s):
        return s.json("GET", "/v2/gpulet/plan")[1]

    def refused(self, *args, devices="sim:h200x4"):
        p = subprocess.run(
            [
                GPULET,
                "serve",
                "--model-repository",
                self.models,
                "--devices",
                devices,
                "--http-port",
                "0",
                "--metrics-port",
                "0",
                *args,
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )
        return p.returncode, p.stderr

    def test_the_plan_is_made_by_the_policy_and_follows_the_workload(self):
        workload(self.workload, lenet=(2000, None), mobilenet_v2=(1000, "80ms"), resnet50=(400, "120ms"))
        with Server(self.models, "--workload", self.workload, devices="sim:h200x4") as s:
            doc = self.plan(s)
            self.assertEqual(doc["policy"], "optimal")
            self.assertTrue(doc["feasible"])
            self.assertGreater(doc["lower_bound_gpus"], 0)
            self.assertEqual({m["name"] for _, m in entries(doc)}, set(MODELS))
            self.assertEqual(
                {m["name"]: m["slo_ms"] for _, m in entries(doc)}, {"lenet": 150, "mobilenet_v2": 80, "resnet50": 120}
            )
            for _, m in entries(doc):
                self.assertLessEqual(m["batch"], 8, "config.pbtxt allows no larger batch")
            self.assertGreaterEqual(sum(m["rate"] for _, m in entries(doc) if m["name"] == "resnet50"), 399)
            self.assertIn("resnet50", s.log())  # the table is logged
            load = Load(s, "lenet", clients=2)
            until(lambda: load.count() > 20, "requests are answered")

            workload(self.workload, lenet=(2000, None), mobilenet_v2=(30000, "80ms"), resnet50=(4000, "120ms"))
            s.proc.send_signal(signal.SIGHUP)
            until(lambda: self.plan(s)["generation"] == 2, "SIGHUP reads the workload again")
            self.assertGreaterEqual(
                sum(m["rate"] for _, m in entries(self.plan(s)) if m["name"] == "mobilenet_v2"), 29999
            )

            workload(self.workload, lenet=(2000, "1us"))
            s.proc.send_signal(signal.SIGHUP)
            until(lambda: "the plan stays as it is" in s.log(), "an infeasible workload is refused")
            self.assertEqual(self.plan(s)["generation"], 2)
            with open(self.workload, "w") as f:
                f.write("models: [{nam: lenet}]\n")
            s.proc.send_signal(signal.SIGHUP)
            until(lambda: s.log().count("the plan stays as it is") == 2, "a broken workload is refused")
            self.assertIn("w.yaml:1:", s.log())
            self.assertEqual(self.plan(s)["generation"], 2)
            self.assertEqual([o for o in load.stop() if o[2] != 200], [])

    def test_policies_and_precedence(self):
        workload(self.workload, lenet=(500, None), mobilenet_v2=(200, None))
        with Server(self.models, "--workload", self.workload, "--policy", "temporal", devices="sim:h200x2") as s:
            self.assertEqual(self.plan(s)["policy"], "temporal")
            status, text = s.infer_floats("resnet50", [[0.0] * 16])
            self.assertEqual(status, 503, text)
            self.assertIn("it gets no gpu-let", s.log())
            path = os.path.join(self.dir.name, "plan.json")
            with open(path, "w") as f:
                json.dump({**self.plan(s), "policy": "mine"}, f)
        with Server(self.models, "--workload", self.workload, "--plan", path, devices="sim:h200x2") as s:
            self.assertEqual(self.plan(s)["policy"], "mine")
        with Server(self.models, devices="sim:h200x2") as s:
            self.assertEqual(self.plan(s)["policy"], "default")

    def test_devices_are_numbered_as_they_were_found(self):
        workload(self.workload, lenet=(2000, None), mobilenet_v2=(1000, None))
        with tempfile.TemporaryDirectory() as other:  # a second type: the same profile under another name
            for name in os.listdir(PROFILE):
                with open(os.path.join(PROFILE, name)) as f, open(os.path.join(other, name), "w") as g:
                    g.write(f.read().replace("type: h200", "type: twin"))
            with Server(
                self.models,
                "--workload",
                self.workload,
                "--profile",
                f"{PROFILE},{other}",
                devices="sim:twin#0+sim:h200#0+sim:twin#1",
            ) as s:
                types = ["twin", "h200", "twin"]
                doc = self.plan(s)
                self.assertTrue(doc["gpus"])
                for g in doc["gpus"]:
                    self.assertEqual(g["type"], types[g["id"]])
                self.assertEqual(s.infer_floats("lenet", [[1.0] * 16])[0], 200)

    def test_what_cannot_be_planned_says_why(self):
        workload(self.workload, resnet50=(1000000, "100ms"))
        code, err = self.refused("--workload", self.workload, "--profile", PROFILE)
        self.assertEqual(code, 1, err)
        self.assertIn("more would do", err)
        self.assertIn("w.yaml", err)
        code, err = self.refused("--workload", self.workload, "--profile", PROFILE, devices="cpu")
        self.assertEqual(code, 1, err)
        self.assertIn("gpulet profile --device cpu", err)
        workload(self.workload, nobody=(1, None))
        code, err = self.refused("--workload", self.workload, "--profile", PROFILE)
        self.assertEqual(code, 1, err)
        self.assertIn("'nobody' is not in the repository", err)
        repository(self.models, lenet=null_model("lenet", slo_ms=None, max_batch=8))
        workload(self.workload, lenet=(100, None), resnet50=(100, "100ms"))
        code, err = self.refused("--workload", self.workload, "--profile", PROFILE)
        self.assertEqual(code, 1, err)
        self.assertIn("model 'lenet' has no SLO to plan for: write slo: 20ms here", err)
        code, err = self.refused("--workload", self.workload)
        self.assertEqual(code, 2, err)
        self.assertIn("--profile", err)
        code, err = self.refused("--policy", "optimul")
        self.assertEqual(code, 2, err)
        self.assertIn("optimal", err)
        workload(self.workload, lenet=(0, None))
        code, err = self.refused("--workload", self.workload, "--profile", PROFILE)
        self.assertEqual(code, 1, err)


if __name__ == "__main__":
    main()
