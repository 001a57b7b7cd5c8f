"""bench/goodput.py on a simulated device: rows are measured, a killed run goes on, failures say so."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest

from harness import GPULET, PATIENCE, ROOT, main, until

BENCH = [sys.executable, os.path.join(ROOT, "bench", "goodput.py")]


def command(d, *more):
    return BENCH + [
        "run",
        "--gpulet",
        GPULET,
        "--profile",
        os.path.join(ROOT, "profiles", "h100"),
        "--seeds",
        "1",
        "--row-seconds",
        "2",
        "--warmup",
        "0.2",
        "--burn",
        "0",
        "--effort",
        "0",
        "--slow",
        "32",
        "--rivals",
        "eager",
        "--output",
        d,
        *more,
    ]


def results(d):
    path = os.path.join(d, "results.jsonl")
    if not os.path.exists(path):
        return []
    with open(path) as f:
        return [json.loads(line) for line in f if line.endswith("\n")]


class Goodput(unittest.TestCase):
    def test_a_killed_run_goes_on(self):
        with tempfile.TemporaryDirectory() as d:
            argv = command(
                d,
                "--cases",
                "scen3:paper:optimal,scen3:paper:shared,scen5:k4:temporal",
                "--rates",
                "0.3,160/s",
                "--only-missing",
            )
            first = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until(lambda: len(results(d)) >= 1, "a row", proc=first)
            first.send_signal(signal.SIGKILL)
            first.wait()
            before = [r for r in results(d) if r["status"] == "ok"]
            p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=3 * PATIENCE)
            rows = results(d)
            self.assertEqual([r for r in rows if r in before], before)
            self.assertEqual(
                {(r["case"], r["at"]) for r in rows},
                {(f"scen3:paper:{v}", at) for v in ("optimal:default", "shared:eager") for at in ("0.3", "160/s")}
                | {("scen5:k4:temporal:-", "-")},
                p.stderr,
            )
            measured = [r for r in rows if r["at"] != "-"]
            for r in measured:
                # A busy host makes the generator late, which is a failed row with all of its figures.
                self.assertTrue(r["status"] == "ok" or r["status"].startswith("generator: "), r["status"])
                self.assertGreater(r["sent"], 0)
                self.assertLessEqual(r["goodput"], r["offered"])
                self.assertEqual(len(r["models"]), 3)
                self.assertEqual(r["worst"]["attainment"], min(m["attainment"] for m in r["models"]))
            totals = {(r["at"], r["total"]) for r in measured}
            self.assertEqual(len(totals), 2, "policies were offered different rates")
            self.assertIn(("160/s", 5), totals)
            self.assertEqual([r["status"] for r in rows if r["at"] == "-"], ["no plan"])
            self.assertIn("scen5:k4:temporal", p.stdout)
            shown = subprocess.run(
                BENCH + ["table", os.path.join(d, "results.jsonl")], stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            self.assertIn("The policies at the same offered rate", shown)
            good = len([r for r in rows if r["status"] != "ok"])
            again = subprocess.run(
                argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=3 * PATIENCE
            )
            self.assertLessEqual(len(results(d)), len(rows) + good, again.stderr)

    def test_a_server_that_does_not_start_is_said(self):
        with tempfile.TemporaryDirectory() as d:
            p = subprocess.run(
                command(d, "--server", "broken=/bin/false", "--cases", "scen3:paper:optimal", "--rates", "0.3"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                timeout=3 * PATIENCE,
            )
            self.assertEqual(p.returncode, 1, p.stderr)
            self.assertEqual([r["status"].split(":")[0] for r in results(d)], ["server died"])
            self.assertIn("server died: no start", p.stdout)


if __name__ == "__main__":
    main()
