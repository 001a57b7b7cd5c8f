#!/usr/bin/env python3
"""Sends handwritten digits that LeNet was not trained on to a running server; prints the accuracy of what came back.

    digits.py --url http://127.0.0.1:8000 --models REPOSITORY [--model lenet] [--connections 8] [--at-least 0.97]
"""
import argparse
import os
import sys
import threading
import time

import numpy

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from client import Client, Failed  # noqa: E402


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--url", default="http://127.0.0.1:8000")
    p.add_argument("--models", required=True, metavar="REPOSITORY", help="the model repository that the server serves")
    p.add_argument("--model", default="lenet")
    p.add_argument("--connections", type=int, default=8)
    p.add_argument("--at-least", type=float, default=0.97, help="the least accuracy for exit 0")
    args = p.parse_args()
    data = numpy.load(os.path.join(args.models, args.model, "reference", "digits.npz"))
    images, labels = data["images"].astype("<f4"), data["labels"]
    answers, errors = numpy.full(len(labels), -1), []

    def work(first):
        client = Client(args.url)
        for i in range(first, len(labels), args.connections):
            try:
                out = client.infer(
                    args.model, {"INPUT__0": ("FP32", images[i : i + 1])}, {"timeout": 30_000_000}
                )  # this is about answers, not about time
                answers[i] = int(out["OUTPUT__0"].argmax())
            except (Failed, OSError) as e:
                errors.append(str(e))
                client.close()
        client.close()

    start = time.monotonic()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(args.connections)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    seconds = time.monotonic() - start
    right = int((answers == labels).sum())
    print(f"{args.model}: {right} of {len(labels)} digits right over the wire, "
          f"accuracy {100 * right / len(labels):.2f} %, "
          f"{len(errors)} errors, {len(labels) / seconds:.0f} images/s")  # fmt: skip
    for e in errors[:3]:
        print(f"  {e}")
    sys.exit(0 if right >= args.at_least * len(labels) else 1)


if __name__ == "__main__":
    main()
