#!/usr/bin/env python3
"""Compares a running server's answers with PyTorch's own for the same inputs.

    compare.py --url http://127.0.0.1:8000 --models REPOSITORY [--only a,b] [--rtol 1e-4] [--atol 1e-5]

For every model of the repository that has a reference/ (see models/export.py): each reference batch as one request,
then every row of the largest batch as a request of its own, all sent at once so that the server forms batches.
Values are compared as |got - want| <= atol * max(1, largest |want|) + rtol * |want|. Exit 0: all equal; 1: not.
"""
import argparse
import os
import sys
import threading

import numpy

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from client import Client, Failed, reference, references  # noqa: E402


PATIENT = {"timeout": 60_000_000}  # µs, instead of the SLO: this is about values


def differ(got, want, args):
    """None, or what is different; and the largest error relative to the output's scale."""
    worst = 0.0
    for name, w in want.items():
        if name not in got:
            return f"output {name} is missing", worst
        g = got[name]
        if g.shape != w.shape:
            return f"output {name} has shape {list(g.shape)}, not {list(w.shape)}", worst
        scale = max(1.0, float(numpy.abs(w).max()))
        error = numpy.abs(g.astype("f8") - w.astype("f8"))
        worst = max(worst, float(error.max()) / scale)
        bad = ~(error <= args.atol * scale + args.rtol * numpy.abs(w))
        if bad.any():
            i = tuple(int(x[0]) for x in numpy.nonzero(bad))
            return (
                f"output {name}{list(i)} is {g[i]!r}, not {w[i]!r} ({int(bad.sum())} of {bad.size} values differ)",
                worst,
            )
    return None, worst


def compare(model, directory, args):
    worst, wrong = 0.0, []
    sizes = references(directory)
    client = Client(args.url)
    for batch in sizes:
        inputs, want = reference(directory, batch)
        why, error = differ(client.infer(model, inputs, PATIENT), want, args)
        worst = max(worst, error)
        if why:
            wrong.append(f"batch {batch}: {why}")
    client.close()

    inputs, want = reference(directory, sizes[-1])
    rows = sizes[-1]
    results = [None] * rows * args.rounds
    ready = threading.Barrier(len(results))

    def one(i):
        row = i % rows
        try:
            c = Client(args.url)
            ready.wait()
            results[i] = c.infer(model, {n: (t, a[row : row + 1]) for n, (t, a) in inputs.items()}, PATIENT)
            c.close()
        except (Failed, OSError, threading.BrokenBarrierError) as e:
            results[i] = e

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(results))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, got in enumerate(results):
        row = i % rows
        if isinstance(got, Exception):
            wrong.append(f"concurrent request {i}: {got}")
            continue
        why, error = differ(got, {n: a[row : row + 1] for n, a in want.items()}, args)
        worst = max(worst, error)
        if why:
            wrong.append(f"concurrent request {i} (row {row}): {why}")
    verdict = "ok" if not wrong else "DIFFERS"
    print(
        f"{model:16} {verdict:8} batches {sizes} and {len(results)} concurrent singles, "
        f"largest error {worst:.1e} of the output's scale"
    )
    for w in wrong[:5]:
        print(f"  {w}")
    return not wrong


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--url", default="http://127.0.0.1:8000")
    p.add_argument("--models", required=True, metavar="REPOSITORY", help="the model repository that the server serves")
    p.add_argument("--only", metavar="A,B")
    p.add_argument("--rtol", type=float, default=1e-4)
    p.add_argument(
        "--atol", type=float, default=1e-5, help="of the output's largest value, or of 1 where that is smaller"
    )
    p.add_argument("--rounds", type=int, default=2, help="how often each row is sent in the concurrent part")
    args = p.parse_args()
    names = args.only.split(",") if args.only else sorted(os.listdir(args.models))
    have = [n for n in names if os.path.isdir(os.path.join(args.models, n, "reference"))]
    if not have or (args.only and len(have) < len(names)):
        raise SystemExit(
            f"no reference/ for {', '.join(n for n in names if n not in have) or args.models}: see models/export.py"
        )
    ok = True
    for name in have:
        try:
            ok = compare(name, os.path.join(args.models, name, "reference"), args) and ok
        except (Failed, OSError) as e:
            print(f"{name:16} FAILED   {e}")
            ok = False
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
