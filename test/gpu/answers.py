#!/usr/bin/env python3
"""answers.py GPULET REPOSITORY DEVICE TOLERANCE: `gpulet run --verify` of every model that has references made on this
device (models/export.py --reference-device), at each of their batches and at $SHARES ("25 100") percent of the device,
several at once. Prints a line per model with the largest share of failures; exit 1 when one differs or fails.
"""
import concurrent.futures
import os
import subprocess
import sys

gpulet, repository, device, tolerance = sys.argv[1:5]
shares = os.environ.get("SHARES", "25 100").split()


def run(model, batch, share):
    p = subprocess.run(
        [
            gpulet,
            "run",
            os.path.join(repository, model),
            "--device",
            device,
            "--batch",
            batch,
            "--share",
            share,
            "--count",
            "3",
            "--verify",
            "--rtol",
            tolerance,
            "--atol",
            tolerance,
            "--json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    return model, batch, share, p.returncode, (p.stderr.strip().splitlines() or [""])[-1]


jobs = []
for model in sorted(os.listdir(repository)):
    directory = os.path.join(repository, model, "reference")
    if os.path.isdir(directory):
        batches = sorted(f[5:-4] for f in os.listdir(directory) if f.startswith("batch") and f.endswith(".txt"))
        jobs += [(model, b, s) for b in batches for s in shares]
with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("PARALLEL", "8"))) as pool:
    results = list(pool.map(lambda j: run(*j), jobs))
failed = 0
for model in sorted({r[0] for r in results}):
    mine = [r for r in results if r[0] == model]
    wrong = [r for r in mine if r[3]]
    failed += len(wrong)
    print(
        f"{model:14} {len(mine) - len(wrong)} of {len(mine)} within {tolerance}"
        + "".join(f"\n  batch {r[1]} on {r[2]} %: {r[4][:200]}" for r in wrong)
    )
print(f"{len(results)} runs, {failed} failed")
sys.exit(1 if failed or not results else 0)
