"""goodput_plan.py: what a case of bench/goodput.py is: rates, SLOs, and the plan that `gpulet plan` makes for them."""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
SLO_SETS = ("paper", "k2", "k4")
POLICIES = ("optimal", "temporal", "shared")


class Profile:
    """A profile directory; slow > 1: a copy in |work| whose device takes that much longer, for a simulated one."""

    def __init__(self, path, slow, work):
        self.name, self.slow = os.path.basename(os.path.normpath(path)), slow
        self.dir = path if slow == 1 else self.slowed(path, slow, os.path.join(work, f"profile-{slow:g}"))
        with open(os.path.join(self.dir, "device.yaml")) as f:
            text = f.read()
        self.type = re.search(r"^type: *(\S+)", text, re.M).group(1)
        self.granules = int(re.search(r"^granules: *(\d+)", text, re.M).group(1))
        self.whole = {}  # (model, batch): (p50, p99) in ms on the most granules
        with open(os.path.join(self.dir, "latency.csv")) as f:
            for r in csv.DictReader(f):
                if int(r["granules"]) == self.granules:
                    self.whole[r["model"], int(r["batch"])] = float(r["p50_ms"]), float(r["p99_ms"])

    @staticmethod
    def slowed(path, slow, to):
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(path, to)
        with open(os.path.join(path, "latency.csv")) as f:
            rows = list(csv.DictReader(f))
        with open(os.path.join(to, "latency.csv"), "w") as f:
            f.write("model,batch,granules,p50_ms,p99_ms\n")
            for r in rows:
                f.write(
                    f"{r['model']},{r['batch']},{r['granules']},{float(r['p50_ms']) * slow:g},{float(r['p99_ms']) * slow:g}\n"
                )
        fitted = os.path.join(to, "interference.yaml")
        if os.path.exists(fitted):
            with open(fitted) as f:
                text = re.sub(
                    r"(delay_ms: *)([\d.e+-]+)", lambda m: f"{m.group(1)}{float(m.group(2)) * slow:g}", f.read()
                )
            with open(fitted, "w") as f:
                f.write(text)
        return to

    def batch(self, model, most):
        """The largest measured batch up to |most| on the whole device: (batch, p99 in ms)."""
        found = [(b, v[1]) for (m, b), v in self.whole.items() if m == model and b <= most]
        return max(found) if found else None


def workload(name):
    """[(model, relative rate, the paper's SLO in ms)] of bench/workloads/NAME.yaml, or of a file."""
    path = name if name.endswith(".yaml") else os.path.join(HERE, "workloads", name + ".yaml")
    with open(path) as f:
        found = re.findall(r"\{name: *([^,]+), *rate: *([\d.]+)/s, *slo: *([\d.]+)ms\}", f.read())
    if not found:
        raise SystemExit(f"{path}: no lines such as '- {{name: bert, rate: 10/s, slo: 22ms}}'")
    least = min(float(r) for _, r, _ in found)
    return [(m, float(r) / least, float(s)) for m, r, s in found]


def slos(models, which, profile):
    """{model: SLO in ms}: the paper's, or k executions of batch 32 on the whole device, at least 2 ms; the slowed device's scaled."""
    if which == "paper":
        return {m: s * profile.slow for m, _, s in models}
    k = float(which[1:])
    ret = {}
    for m, _, _ in models:
        if (m, 32) not in profile.whole:
            raise SystemExit(
                f"profile {profile.dir} has no latency of {m} at batch 32 on the whole device: no SLO set {which}"
            )
        ret[m] = round(max(k * profile.whole[m, 32][0], 2 * profile.slow), 3)
    return ret


def write_workload(path, models, total, slo):
    """|total| requests/s over the models in their proportions."""
    weight = sum(r for _, r, _ in models)
    with open(path, "w") as f:
        f.write("models:\n")
        for m, r, _ in models:
            f.write(f"  - {{name: {m}, rate: {total * r / weight:.4f}/s, slo: {slo[m]:g}ms}}\n")
    return path


def digest(*paths):
    h = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as f:
            h.update(f.read())
    return h.hexdigest()[:12]


class Planner:
    """Plans by `gpulet plan`; what was found is kept in |cache|, so that later visits and servers get the same rates and plans. It does not
    know which planner found them: a changed planner needs a new file."""

    def __init__(self, binary, profile, work, effort, cache):
        self.binary, self.profile, self.work, self.effort, self.cache = binary, profile, work, effort, cache
        self.known = {}
        if os.path.exists(cache):
            with open(cache) as f:
                self.known = json.load(f)
        self.by = f"{digest(os.path.join(profile.dir, 'latency.csv'))} {effort}"

    def plan(self, models, slo, policy, total, effort=0):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=self.work) as f:
            write_workload(f.name, models, total, slo)
            more = ["--effort", str(effort)] if policy == "optimal" else []
            p = subprocess.run(
                [
                    self.binary,
                    "plan",
                    "--profile",
                    self.profile.dir,
                    "--workload",
                    f.name,
                    "--gpus",
                    "1",
                    "--policy",
                    policy,
                    "--json",
                    *more,
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                timeout=120,
            )
        try:
            return json.loads(p.stdout)
        except ValueError:
            return {"feasible": False, "reasons": [p.stderr.strip()[-300:] or f"gpulet plan ended with {p.returncode}"]}

    def best(self, name, which, policy):
        """(the largest total rate to 1 % that has a plan, the plan, "") or (0, None, why there is none)."""
        key = f"{self.by} {name} {which} {policy}"
        if key not in self.known:
            models = workload(name)
            self.known[key] = self.seek(models, slos(models, which, self.profile), policy)
            with open(self.cache + ".new", "w") as f:
                json.dump(self.known, f)
            os.replace(self.cache + ".new", self.cache)
        return tuple(self.known[key])

    def seek(self, models, slo, policy):
        low, high, found = 0, 16.0 / self.profile.slow, None
        first = self.plan(models, slo, policy, high)
        while first["feasible"] and high < 1e7:
            low, found, high = high, first, high * 2
            first = self.plan(models, slo, policy, high)
        if not found:
            return 0, None, (first.get("reasons") or ["no plan"])[0]
        while high - low > 0.01 * low:
            mid = (low + high) / 2
            p = self.plan(models, slo, policy, mid)
            if p["feasible"]:
                low, found = mid, p
            else:
                high = mid
        # With effort the search finds plans above that, and not at every rate: it stops early at some.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            while policy == "optimal":
                above = [low * (1 + 0.01 * i) for i in range(1, 13)]
                fits = [
                    (t, p)
                    for t, p in zip(above, pool.map(lambda t: self.plan(models, slo, policy, t, self.effort), above))
                    if p["feasible"]
                ]
                if not fits:
                    break
                low, found = fits[-1]
        return low, found, ""


def served(plan, slo, profile, most):
    """The plan as the server gets it: with the set's SLOs; |most|: batches widened up to it, for rivals that have the whole device."""
    plan = json.loads(json.dumps(plan))
    for gpu in plan["gpus"]:
        gpu.pop("type", None)  # the same figures serve a card of another name
        for g in gpu["gpulets"]:
            for m in g["models"]:
                m["slo_ms"] = slo[m["name"]]
                wide = profile.batch(m["name"], most) if most else None
                if wide and wide[0] > m["batch"] and g["granules"] == profile.granules:
                    m["batch"], m["latency_ms"] = wide
    return plan
