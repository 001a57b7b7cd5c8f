"""The load generator against a real server: exit codes, what it says about itself, Ctrl-C, threads."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import unittest

from harness import GPULET, PATIENCE, Server, main, null_model, repository, until

STAGES = ("received", "admitted", "batched", "submitted", "started", "finished", "answered")


class LoadGenerator(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        models = os.path.join(cls.dir.name, "models")
        repository(
            models, null=null_model(slo_ms=10000), slow=null_model("slow", max_batch=1, null_us=50000, slo_ms=10000)
        )
        cls.workloads = {}
        for name, rate in (("null", 200), ("slow", 40)):
            cls.workloads[name] = os.path.join(cls.dir.name, name + ".yaml")
            with open(cls.workloads[name], "w") as f:
                f.write(f"models: [{{name: '{name}', rate: {rate}/s}}]\n")
        cls.s = Server(models)

    @classmethod
    def tearDownClass(cls):
        try:
            cls.s.stop()
        finally:
            cls.s.kill()
            cls.dir.cleanup()

    def argv(self, workload, *args, port=None):
        url = f"http://127.0.0.1:{port or self.s.port}"
        return [GPULET, "load", "--url", url, "--workload", self.workloads[workload], "--quiet", *args]

    def load(self, workload, *args, port=None):
        p = subprocess.run(
            self.argv(workload, *args, port=port),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )
        return p.returncode, p.stdout, p.stderr

    def test_too_few_connections_fail_after_the_table(self):
        # An execution takes 50 ms and 40 requests come each second: with one connection nearly all wait for it.
        args = ("--duration", "1s", "--arrival", "uniform", "--connections", "1")
        code, out, err = self.load("slow", *args)
        self.assertEqual(code, 1, out + err)
        self.assertIn("slow ", out)
        self.assertIn("\nconnections: the generator was the bottleneck", out)
        self.assertRegex(err, r"waited because all 1 connections were busy .*use --connections \d+")
        code, out, err = self.load("slow", *args, "--bottleneck", "warn")
        self.assertEqual(code, 0, out + err)
        self.assertIn("the generator was the bottleneck", err)
        code, out, err = self.load("slow", *args, "--bottleneck", "ignore", "--json")
        self.assertEqual((code, err), (0, ""))
        doc = json.loads(out)
        self.assertEqual(doc["bottleneck"], "connections")
        self.assertGreater(doc["generator"]["waited_share"], 0.5)
        self.assertIn("--connections", doc["generator"]["advice"])

    def test_the_same_requests_with_any_number_of_threads(self):
        sent = set()
        for threads in ("1", "2", "3"):
            code, out, err = self.load(
                "null", "--duration", "500ms", "--threads", threads, "--json", "--bottleneck", "ignore"
            )
            self.assertEqual(code, 0, err)
            doc = json.loads(out)
            self.assertEqual(doc["generator"]["threads"], int(threads))
            self.assertEqual(doc["total"]["ok"], doc["total"]["sent"])
            sent.add(doc["total"]["sent"])
        self.assertEqual(len(sent), 1)
        self.assertGreater(sent.pop(), 50)

    def test_stage_times(self):
        has_route = self.s.request("GET", "/v2/gpulet/stages")[0] == 200
        code, out, err = self.load("null", "--duration", "500ms", "--json", "--bottleneck", "ignore")
        self.assertEqual(code, 0, err)
        m = json.loads(out)["models"][0]
        if has_route:
            self.assertEqual(set(m["stages"]), set(STAGES))
            for (
                s
            ) in (
                STAGES
            ):  # the server counts a request when its answer is written, so the last ones may fall on either side
                self.assertAlmostEqual(m["stages"][s]["count"], m["ok"], delta=5)
            self.assertLessEqual(m["stages"]["finished"]["mean_ms"], m["max_ms"])
        else:
            self.assertIsNone(m["stages"])
        code, out, err = self.load("null", "--duration", "200ms", "--wide", "--bottleneck", "ignore")
        self.assertEqual(code, 0, err)
        for stage in STAGES:
            self.assertIn(stage, out)

    def test_ctrl_c_prints_the_table_so_far(self):
        p = subprocess.Popen(
            self.argv("null", "--duration", "10m", "--threads", "2", "--bottleneck", "ignore"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        try:
            before = self.ran()
            until(lambda: self.ran() > before + 20, "requests arrive", proc=p)
            p.send_signal(signal.SIGINT)
            out, err = p.communicate(timeout=PATIENCE)
        finally:
            p.kill()
            p.wait()
        self.assertEqual((p.returncode, err), (0, ""))
        self.assertRegex(out, r"^model .*\nnull ")

    def ran(self):
        return self.s.json("GET", "/v2/models/null/stats")[1]["model_stats"][0]["inference_count"]

    def test_no_server_and_wrong_use(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            code, out, err = self.load("null", port=s.getsockname()[1])
        self.assertEqual((code, out), (1, ""))
        self.assertIn("is the server running?", err)
        for args, word in [
            (("--threads", "9", "--connections", "4"), "--threads 9"),
            (("--threads", "-1"), "--threads"),
            (("--bottleneck", "maybe"), "ignore"),
            (("--thread", "2"), "did you mean --threads?"),
        ]:
            code, out, err = self.load("null", *args)
            self.assertEqual((code, out), (2, ""), err)
            self.assertIn(word, err)


if __name__ == "__main__":
    main()
