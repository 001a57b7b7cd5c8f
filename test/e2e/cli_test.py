"""The command line as a newcomer meets it: help, wrong flags, missing files, exit codes."""
import os
import re
import subprocess
import unittest

from harness import GPULET, ROOT, main


def gpulet(*args):
    p = subprocess.run([GPULET, *args], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    return p.returncode, p.stdout, p.stderr


class CommandLine(unittest.TestCase):
    def test_help(self):
        code, out, _ = gpulet("help")
        self.assertEqual(code, 0)
        for cmd in ("serve", "run", "profile", "plan", "load", "import-glet"):
            self.assertIn(f"\n  {cmd}", out)
            code, text, _ = gpulet(cmd, "--help")
            self.assertEqual(code, 0)
            self.assertIn(f"gpulet {cmd}", text)
            self.assertEqual(gpulet("help", cmd)[1], text)
        self.assertEqual(gpulet("--help")[0], 0)

    def test_the_version_has_one_home(self):
        code, out, _ = gpulet("--version")
        self.assertEqual(code, 0)
        with open(os.path.join(ROOT, "src", "base", "version.h")) as f:
            version = re.search(r'"(.*)"', f.read()).group(1)
        self.assertRegex(out, rf"^gpulet {re.escape(version)}( \([0-9a-f]{{7,40}}\))?\n$")

    def test_the_documentation_is_current(self):
        code, out, _ = gpulet("help", "--markdown")
        self.assertEqual(code, 0)
        with open(os.path.join(ROOT, "doc", "configuration.md")) as f:
            self.assertEqual(f.read(), out, "run: gpulet help --markdown >doc/configuration.md")

    def test_usage_errors_exit_2(self):
        for args, word in [
            ((), "help"),
            (("srve",), "serve"),
            (("serve",), "model-repository"),
            (("serve", "--http-prt", "1"), "http-port"),
            (("serve", "--model-repository", "x", "--http-port", "99999"), "65535"),
            (("plan", "--gpus", "x"), ""),
            (("load", "--duration", "10"), "unit"),
            (("run",), "MODEL_DIR"),
        ]:
            code, out, err = gpulet(*args)
            self.assertEqual(code, 2, (args, out, err))
            self.assertIn(word, err + out)

    def test_failures_exit_1(self):
        for args, word in [
            (("serve", "--model-repository", "/no/such/dir"), "/no/such/dir"),
            (("run", "/no/such/model"), "/no/such/model"),
            (("serve", "--model-repository", "/no/models", "--ready-file", "/no/such/r"), "--ready-file /no/such/r"),
            (("plan", "--profile", "/no/such", "--workload", "/no/w.yaml", "--gpus", "1"), "/no/"),
        ]:
            code, out, err = gpulet(*args)
            self.assertEqual(code, 1, (args, out, err))
            self.assertIn(word, err)


if __name__ == "__main__":
    main()
