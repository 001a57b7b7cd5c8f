#!/usr/bin/env python3
"""goodput.py run|list|table|plot: requests per second answered in time, over the offered rate, by workload, SLOs and policy.

  run     measures rows, each appended to OUTPUT/results.jsonl at once, and prints the table; in slices: --time, --cases, --rates, --seeds,
          --only-missing. Ctrl-C prints what there is.
  list    the rows that run would measure, and about how long they take
  table   RESULTS.jsonl...: the table again
  plot    RESULTS.jsonl... --output DIR: one picture per workload and SLO set (needs matplotlib)

A case is WORKLOAD:SLOS:POLICY:VARIANT. Workloads: scen1, scen3, scen5, six, nine (also eight: nine less ssd). SLOs: paper, k4 (4 executions of batch
32 on the whole device, at least 2 ms), k2. Policies: optimal, temporal, shared. Variants: default (the server's own batching), eager, deferred, and
these with -32: the plan's batches widened up to 32. The plan is the one of the highest rate that `gpulet plan` accepts for the policy on one device,
by bisection to 1 %. Rates are multiples of what `optimal` plans ("0.6") or absolute ("8025/s"), so all policies are offered the same.
Rivals (temporal, shared): all four variants at the probe rates, the rest of the rows with the one that had the most goodput there.
doc/benchmarks.md says what each column means.
"""

import argparse
import fnmatch
import json
import os
import random
import signal
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import goodput_plan as planning  # noqa: E402
import goodput_server as serving  # noqa: E402
import goodput_show as show  # noqa: E402

WORKLOADS = ("scen1", "scen3", "scen5", "six", "nine")
RIVAL_VARIANTS = ("eager", "deferred", "eager-32", "deferred-32")
PROBES = ("0.6", "0.9")


def words(text):
    return [x for x in text.replace(",", " ").split() if x]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("verb", choices=("run", "list", "table", "plot"))
    p.add_argument("results", nargs="*", help="for table and plot: results.jsonl files")
    p.add_argument(
        "--gpulet",
        default="build/release/bin/gpulet",
        help="plans, generates the load, and serves what has no --server",
    )
    p.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="[LABEL=]BINARY",
        help="measure this gpulet's server, as often as you like; its torch plugin may lie beside it",
    )
    p.add_argument("--label", default="now", help="of rows served by --gpulet, or by a --server without a label")
    p.add_argument("--planner", help="the gpulet that plans (default: --gpulet)")
    p.add_argument("--device", default="sim", help="sim (of the profile's type), or what gpulet serve --devices takes")
    p.add_argument("--profile", default="profiles/h100")
    p.add_argument("--model-repository", help="default for sim devices: null models with the real ones' tensors")
    p.add_argument(
        "--slow",
        type=float,
        help="sim devices: latencies and SLOs times this, so that a small host can drive them (default 16)",
    )
    p.add_argument("--cases", default="*", help="patterns of WORKLOAD:SLOS:POLICY[:VARIANT], measured in this order")
    p.add_argument("--rates", default="0.3,0.6,0.9,1.1,1.5", help="multiples of optimal's planned rate, or 8025/s")
    p.add_argument("--seeds", default="1,2")
    p.add_argument(
        "--rivals", default="best", help="variants of temporal and shared: best (probe, then the best), all, or a list"
    )
    p.add_argument("--optimal", default="default", help="variants of optimal: a list")
    p.add_argument(
        "--time",
        type=float,
        default=0,
        help="seconds for everything: no row starts that would not end in them; 0: no limit",
    )
    p.add_argument("--row-seconds", type=float, default=6, help="of a row at most")
    p.add_argument(
        "--requests", type=int, default=2000, help="a row lasts until the smallest model had so many, at least 2 s"
    )
    p.add_argument("--warmup", type=float, default=1.5, help="seconds of a row that do not count")
    p.add_argument("--burn", type=float, default=1, help="seconds of load after a start, before the first row")
    p.add_argument("--settle", type=float, default=100, help="longest wait for batch sizes being added")
    p.add_argument("--patience", type=float, default=150, help="longest start of a server")
    p.add_argument(
        "--only-missing",
        action="store_true",
        help="leave out rows that OUTPUT/results.jsonl or --done has, less failed ones",
    )
    p.add_argument("--done", action="append", default=[], help="with --only-missing: results of earlier visits")
    p.add_argument("--connections", type=int, default=3600, help="of the generator")
    p.add_argument("--serve-flags", default="", help="more options of gpulet serve")
    p.add_argument("--planned", help="file of planned rates found before (default: OUTPUT/planned.json)")
    p.add_argument("--effort", type=int, help="of the planner for optimal (default: 2, for sim devices 0)")
    p.add_argument("--order", type=int, default=1, help="seed of the rows' order")
    p.add_argument("--smoke", action="store_true", help="a few rows in less than a minute: does the bench work here?")
    p.add_argument("--output", default="build/goodput")
    a = p.parse_args()
    if a.smoke:
        a.cases, a.rates, a.seeds, a.rivals, a.row_seconds = (
            "six:paper:optimal six:paper:shared scen1:k4:temporal",
            "0.5",
            "1",
            "eager",
            min(a.row_seconds, 3),
        )
        a.time = a.time or 55
    a.sim = a.device == "sim" or a.device.startswith("sim:")
    a.slow = a.slow or (16 if a.sim else 1)
    if a.effort is None:
        a.effort = 0 if a.sim else 2
    if a.slow != 1 and not a.sim:
        p.error("--slow is for sim devices")
    return a


def read(paths):
    rows = []
    for path in paths:
        with open(path) as f:
            for line in f:
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    pass  # the last line of a run that was killed
    return rows


class Bench:
    def __init__(self, a):
        self.a = a
        self.began = time.monotonic()
        os.makedirs(os.path.join(a.output, "plans"), exist_ok=True)
        self.results = os.path.join(a.output, "results.jsonl")
        self.scratch = tempfile.TemporaryDirectory(prefix="goodput-")
        self.work = self.scratch.name
        self.profile = planning.Profile(a.profile, a.slow, self.work)
        self.device = f"sim:{self.profile.type}" if a.device == "sim" else a.device
        self.planner = planning.Planner(
            a.planner or a.gpulet,
            self.profile,
            self.work,
            a.effort,
            a.planned or os.path.join(a.output, "planned.json"),
        )
        self.servers = dict(s.split("=", 1) if "=" in s else (a.label, s) for s in a.server) or {a.label: a.gpulet}
        self.rows, self.start_s = [], 2.0 if a.sim else 12.0
        earlier = [x for x in [self.results, *a.done] if os.path.exists(x)] if a.only_missing else []
        self.have = {show.key_of(r): r for r in read(earlier) if r["status"] in ("ok", "no plan")}
        self.done = self.planned_rows = 0

    # ---- what to measure

    def cases(self):
        """[(workload, SLO set, policy, [variants])], in the order of the patterns, at random within one."""
        known = {x.split(":")[0] for x in words(self.a.cases) if not any(c in x.split(":")[0] for c in "*?[")} - set(
            WORKLOADS
        )
        known = list(WORKLOADS) + sorted(known)
        everything = [(w, s, p) for w in known for s in planning.SLO_SETS for p in planning.POLICIES]
        shuffle, ret = random.Random(self.a.order), {}
        for pattern in words(self.a.cases):
            part = (pattern.split(":") + ["*"] * 4)[:4]
            named = part[1] != "*"
            found = [
                c for c in everything if all(fnmatch.fnmatch(v, x) for v, x in zip(c, part)) and (named or c[1] != "k2")
            ]
            if not found:
                raise SystemExit(
                    f"no case matches '{pattern}': WORKLOAD:SLOS:POLICY[:VARIANT], such as nine:k4:optimal or 'scen1:*:*'"
                )
            shuffle.shuffle(found)
            for c in found:
                rivals = RIVAL_VARIANTS if self.a.rivals in ("best", "all") else words(self.a.rivals)
                variants = words(self.a.optimal) if c[2] == "optimal" else list(rivals)
                chosen = [v for v in variants if fnmatch.fnmatch(v, part[3])] or ([part[3]] if part[3] != "*" else [])
                ret.setdefault(c, chosen)
        return list(ret.items())

    def rates(self, optimal):
        """[(as it was written, requests/s)]"""
        ret = []
        for x in words(self.a.rates):
            if x.endswith("/s"):
                ret.append((x, float(x[:-2]) / self.a.slow))
            elif optimal:
                ret.append((f"{float(x):g}", float(x) * optimal))
        return ret

    def row(self, label, case, variant, at, total, seed):
        w, s, p = case
        optimal, own = self.planner.best(w, s, "optimal")[0], self.planner.best(w, s, p)[0]
        return {
            "label": label,
            "case": f"{w}:{s}:{p}:{variant}",
            "workload": w,
            "slo_set": s,
            "policy": p,
            "variant": variant,
            "at": at,
            "x": total / optimal if optimal else None,
            "total": total,
            "planned": own,
            "planned_optimal": optimal,
            "seed": seed,
            "device": self.device,
            "profile": self.profile.name,
            "slow": self.a.slow,
        }

    def blocks(self, case, variants):
        """[(label, variant, rows)] of a case; where the best variant is sought, the probes first, and then None stands for what they decide."""
        optimal = self.planner.best(*case[:2], "optimal")[0]
        rates, seeds = self.rates(optimal), [int(x) for x in words(self.a.seeds)]
        seek = self.a.rivals == "best" and case[2] != "optimal" and len(variants) > 1
        probes = [at for at, _ in rates if at in PROBES] or [at for at, _ in rates][len(rates) // 2 :][:1]
        ret = []
        for variant in variants:
            for label in self.servers:
                ret.append(
                    (
                        label,
                        variant,
                        [
                            self.row(label, case, variant, at, t, s)
                            for at, t in rates
                            for s in seeds
                            if not seek or at in probes and s == seeds[0]
                        ],
                    )
                )
        if seek:
            for label in self.servers:
                ret.append(
                    (
                        label,
                        None,
                        [
                            self.row(label, case, v, at, t, s)
                            for v in variants[:1]
                            for at, t in rates
                            for s in seeds
                            if not (at in probes and s == seeds[0])
                        ],
                    )
                )
        return ret

    def best_of(self, label, case, variants):
        """The variant with the most goodput among the measured rows that all have; None: none was measured."""
        good = {}
        for r in [*self.have.values(), *self.rows]:
            if (
                r["label"] == label
                and (r["workload"], r["slo_set"], r["policy"]) == case
                and "goodput" in r
                and r["device"] == self.device
                and r["slow"] == self.a.slow
            ):
                good.setdefault(r["variant"], {})[r["at"], r["seed"]] = r["goodput"]
        good = {v: x for v, x in good.items() if v in variants}
        common = set.intersection(*(set(x) for x in good.values())) if good else set()
        return max(good, key=lambda v: sum(good[v][k] for k in common)) if good and common else next(iter(good), None)

    def seconds(self, row):
        models = planning.workload(row["workload"])
        least = min(r for _, r, _ in models) / sum(r for _, r, _ in models) * row["total"]
        return round(min(self.a.row_seconds, max(2.0, self.a.requests / least)), 1)

    def cost(self, row):
        return self.seconds(row) + self.a.warmup + 1.0

    def wanted(self, rows):
        return [r for r in rows if show.key_of(r) not in self.have]

    def left(self):
        return self.a.time - (time.monotonic() - self.began) if self.a.time else float("inf")

    # ---- measuring

    def add(self, row):
        self.rows.append(row)
        with open(self.results, "a") as f:
            f.write(json.dumps(row) + "\n")

    def say(self, text):
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", file=sys.stderr, flush=True)

    def no_plan(self, case, variant, label, why):
        row = self.row(label, case, variant, "-", 0, None)
        row.update(status="no plan", notes=[why], x=None)
        if show.key_of(row) not in self.have:
            self.add(row)

    def count(self):
        return sum(
            len(self.wanted(rows))
            for case, variants in self.cases()
            if self.planner.best(*case)[1]
            for _, _, rows in self.blocks(case, variants)
        )

    def run(self):
        self.planned_rows = self.count()
        self.say(
            f"{self.planned_rows} rows on {self.device}, profile {self.profile.name}"
            + (f", everything {self.a.slow:g} x slower" if self.a.slow != 1 else "")
        )
        for case, variants in self.cases():
            planned, plan, why = self.planner.best(*case)
            if not plan:
                for label in self.servers:
                    self.no_plan(case, "-", label, why)
                self.say(f"{':'.join(case)}: no plan at any rate: {why}")
                continue
            blocks = self.blocks(case, variants)
            shuffle = random.Random(f"{self.a.order} {case}")
            shuffle.shuffle(blocks)
            blocks.sort(key=lambda b: b[1] is None)  # what the probes decide comes after them
            for label, variant, rows in blocks:
                if variant is None:
                    variant = self.best_of(label, case, variants)
                    if not variant:
                        continue
                    rows = [dict(r, variant=variant, case=f"{':'.join(case)}:{variant}") for r in rows]
                    if self.wanted(rows):
                        self.say(f"{':'.join(case)} {label}: the best variant is {variant}")
                rows = self.wanted(rows)
                shuffle.shuffle(rows)
                if rows and not self.block(label, case, variant, plan, rows):
                    return False
        return True

    def server(self, label, case, variant, plan):
        directory = os.path.join(self.work, "serve")
        os.makedirs(directory, exist_ok=True)
        slo = planning.slos(planning.workload(case[0]), case[1], self.profile)
        original = self.a.model_repository
        if not original:
            original = serving.null_repository(os.path.join(self.work, "null"), slo)
        repository = serving.repository(os.path.join(directory, "models"), original, slo)
        batching, _, most = variant.partition("-")
        path = os.path.join(
            self.a.output, "plans", f"{':'.join(case)}:{variant}".replace(":", "-").replace("/", "_") + ".json"
        )
        with open(path, "w") as f:
            json.dump(planning.served(plan, slo, self.profile, int(most or 0)), f, indent=1)
        binary = self.servers[label]
        flags = ["--model-repository", repository, "--devices", self.device, "--plan", path]
        if batching != "default":
            flags += ["--batching", batching]
        flags += ["--profile", self.profile.dir] if self.a.sim else ["--arena-size", "2GiB"]
        if not os.path.exists(os.path.join(os.path.dirname(binary), "libgpulet_torch.so")) and not self.a.sim:
            flags += ["--plugin-dir", os.path.dirname(os.path.abspath(self.a.gpulet))]
        return serving.Server(binary, directory, flags + self.a.serve_flags.split(), self.a.patience)

    def block(self, label, case, variant, plan, rows):
        """One server, these rows. False: the time is over."""
        server, starts = None, 0
        try:
            while rows:
                if self.left() < self.cost(rows[0]) + (0 if server else self.start_s + self.a.burn):
                    self.say(f"no time left for {rows[0]['case']}")
                    return False
                row = rows.pop(0)
                try:
                    if not server:
                        starts += 1
                        began = time.monotonic()
                        server = self.server(label, case, variant, plan)
                        note = server.settle(min(self.a.settle, max(5, self.left())))
                        took = time.monotonic() - began
                        self.say(
                            f"{row['case']} {label}: server up after {server.started:.1f} s, all batch sizes after {took:.1f} s {note}"
                        )
                        self.start_s = max(1.0, (self.start_s + took) / 2)
                        if self.a.burn:
                            self.load(server, row, 0.3 * row["planned_optimal"] or row["total"], 999, self.a.burn)
                    self.measure(server, row)
                except serving.Dead as e:
                    row.update(status=f"server died: {e}")
                    if server:
                        server.stop()
                        server = None
                self.add(row)
                self.progress(row)
                if starts == 3 and not server:
                    self.say(f"{row['case']}: given up, the server did not live three times")
                    break
            return True
        finally:
            if server:
                code = server.stop()
                if code:
                    self.say(f"the server ended with {code}: {server.last_words()}")

    def progress(self, row):
        self.done += 1
        left = f", {self.left():.0f} s left" if self.a.time else ""
        got = (
            f"{row['goodput']:.0f} of {row['offered']:.0f}/s in time, worst {row['worst']['name']} {show.pct(row['worst']['attainment'])} %, "
            if "goodput" in row
            else ""
        )
        self.say(
            f"row {self.done} of {self.planned_rows}{left}: {row['label']} {row['case']} at {row['at']} seed {row['seed']}: {got}{row['status']}"
        )

    def load(self, server, row, total, seed, seconds):
        models = planning.workload(row["workload"])
        path = planning.write_workload(
            os.path.join(self.work, "load.yaml"), models, total, planning.slos(models, row["slo_set"], self.profile)
        )
        flags = ["--workload", path, "--seed", str(seed), "--connections", str(self.a.connections)]
        return server.load(self.a.gpulet, flags, self.a.warmup, seconds, seconds + self.a.warmup + 40)

    def measure(self, server, row):
        notes = row["notes"] = []
        note = server.settle(min(self.a.settle, max(5, self.left())))
        if note:
            notes.append(note)
        row["learnt"] = "forgotten" if server.forget() else "kept"
        before = server.page()
        row["seconds"] = self.seconds(row)
        doc, code, said, cores = self.load(server, row, row["total"], row["seed"], row["seconds"])
        row["status"] = "ok"
        if server.process.poll() is not None:
            raise serving.Dead(f"ended with {server.process.returncode}: {server.last_words()}")
        after = server.page()
        if after.get("worker_restarts", 0) != before.get("worker_restarts", 0):
            notes.append(f"{after['worker_restarts'] - before['worker_restarts']} workers died")
        if any(g.get("growing") for g in after["groups"]):
            notes.append("a batch size was still being added")
        if not doc or not doc.get("models"):
            row["status"] = f"load: exit {code}: {said}"
            return
        fill(row, doc, cores)
        row["held_up"] = server.held_up
        if doc.get("bottleneck"):
            row["status"] = f"generator: {doc['bottleneck']}"


def fill(row, doc, cores):
    """The row's figures from the generator's document."""
    models, t, g = doc["models"], doc["total"], doc.get("generator", {})
    worst = min(models, key=lambda m: (m.get("attainment") if m.get("sent") and m.get("attainment") is not None else 2))

    def count(name):
        told = [(m.get("server") or m).get(name) for m in models]
        return sum(told) if all(isinstance(x, int) for x in told) else None

    errors = t.get("errors", {})
    late = t.get("late", round(t["ok"] - t["goodput"] * doc["seconds"]))
    row.update(
        sent=t["sent"],
        offered=t["sent"] / doc["seconds"],
        goodput=t["goodput"],
        attainment=t["attainment"],
        mean_batch=t.get("mean_batch"),
        refused=errors.get("refused"),
        door=count("refused_door"),
        queue=count("dropped_queue"),
        late=max(0, late),
        other=sum(v for k, v in errors.items() if k != "refused"),
        errors=errors,
        bottleneck=doc.get("bottleneck"),
        generator=g,
    )
    keep = (
        "name",
        "sent",
        "ok",
        "late",
        "p50_ms",
        "p99_ms",
        "max_ms",
        "slo_ms",
        "attainment",
        "goodput",
        "mean_batch",
        "errors",
        "stages",
        "server",
    )
    row["models"] = [{k: m[k] for k in keep if k in m} for m in models]
    row["worst"] = next(m for m in row["models"] if m["name"] == worst["name"])
    row["threads"] = dict(cores, generator=(g.get("busiest_thread", doc.get("busiest_thread")), "load"))


def main():
    a = arguments()
    if a.verb == "table":
        show.table(read(a.results), sys.stdout)
        return 0
    if a.verb == "plot":
        print("\n".join(show.plot(read(a.results), a.output)))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    bench = Bench(a)
    if a.verb == "list":
        total = 0
        for case, variants in bench.cases():
            planned, plan, why = bench.planner.best(*case)
            print(f"{':'.join(case)}: " + (f"planned {planned:.0f}/s" if plan else f"no plan: {why}"))
            for label, variant, rows in bench.blocks(case, variants) if plan else []:
                rows = bench.wanted(rows)
                cost = sum(bench.cost(r) for r in rows) + (bench.start_s + a.burn if rows else 0)
                total += cost
                print(
                    f"  {label} {variant or 'the best variant'}: {len(rows)} rows, {cost:.0f} s: "
                    + " ".join(f"{r['total']:.0f}/s#{r['seed']}" for r in rows)
                )
        print(f"{bench.count()} rows, about {total:.0f} s")
        return 0
    whole = interrupted = False
    try:
        whole = bench.run()
    except KeyboardInterrupt:
        interrupted = True
        bench.say("interrupted")
    rows = list(bench.have.values()) + bench.rows
    with open(os.path.join(a.output, "table.txt"), "w") as f:
        show.table(rows, f)
    show.table(rows, sys.stdout)
    if not whole:
        print("\nNot all rows were measured: the same command with --only-missing goes on")
    if interrupted:
        return 130
    return 1 if (not bench.rows and not whole) or any(r["status"] not in ("ok", "no plan") for r in bench.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
