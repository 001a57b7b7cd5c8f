"""Real models: served outputs equal PyTorch's own, alone and in formed batches; digits are classified."""
import os
import subprocess
import sys
import unittest

from harness import Server, main

MODELS = os.environ.get("GPULET_MODELS", "build/models")
HERE = os.path.dirname(os.path.abspath(__file__))


@unittest.skipUnless(
    os.path.exists(os.path.join(MODELS, "lenet", "config.pbtxt")),
    f"no sample models in {MODELS}: ./dev test makes them",
)
class Models(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = Server(MODELS, "--default-slo", "60s")

    @classmethod
    def tearDownClass(cls):
        try:
            cls.s.stop()
        finally:
            cls.s.kill()

    def script(self, name, *args):
        p = subprocess.run(
            [
                sys.executable,
                os.path.join(HERE, "..", "python", name),
                "--url",
                f"http://127.0.0.1:{self.s.port}",
                "--models",
                MODELS,
                *args,
            ],
            capture_output=True,
            text=True,
            timeout=500,
        )
        self.assertEqual(p.returncode, 0, p.stdout[-3000:] + p.stderr[-3000:])
        return p.stdout

    def test_outputs_equal_pytorch(self):
        print(self.script("compare.py", "--rtol", "1e-4"))

    def test_digits(self):
        print(self.script("digits.py", "--at-least", "0.97"))


if __name__ == "__main__":
    main()
