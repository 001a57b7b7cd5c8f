"""goodput_show.py: rows of bench/goodput.py as a table, as a comparison of policies, and as plots."""

import os
import re
from collections import defaultdict

HEAD = """x: offered over the planned rate of `optimal` for the same workload and SLOs; every policy is offered the same absolute rates.
att all, worst: answered within the SLO of all that were due, in %; refusals, errors and what was never sent are misses.
door, queue, late, other: % of all requests: refused on arrival, dropped after queueing, answered too late, other errors (a server that does not
tell door from queue: all refusals under door, with a *). Stages of the worst model, mean/p99 ms: admit, queue, hand-over (batch closed until the
device began it), run, answer. Busiest thread of server, worker, generator in cores. learnt "kept": the server cannot forget what it learnt."""


def mean(values):
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else None


def pct(v):
    return "-" if v is None else f"{100 * v:.2f}"


def num(v, digits=0):
    return "-" if v is None else f"{v:.{digits}f}"


def short(v):
    return "-" if v is None else f"{v:.3g}" if v < 100 else f"{v:.0f}"


def stages(worst):
    """admit, queue, hand-over, run, answer as mean/p99; hand-over is two of the server's stages (the p99 is the larger one's)."""
    s = worst.get("stages") or {}

    def cell(*names):
        found = [s[n] for n in names if s.get(n)]
        if len(found) < len(names) or any(x.get("mean_ms") is None for x in found):
            return "-"
        return f"{short(sum(x['mean_ms'] for x in found))}/{short(max(x.get('p99_ms') or 0 for x in found))}"

    return [cell("admitted"), cell("batched"), cell("submitted", "started"), cell("finished"), cell("answered")]


COLUMNS = [
    "case",
    "label",
    "x",
    "offered/s",
    "goodput/s",
    "att all",
    "worst",
    "model",
    "door",
    "queue",
    "late",
    "other",
    "admit",
    "queue ms",
    "hand-over",
    "run",
    "answer",
    "batch",
    "server",
    "worker",
    "gen",
    "learnt",
    "seed",
    "status",
]
LEFT = {"case", "label", "model", "learnt", "status"}


def cells(r):
    head = [r["case"], r["label"], r["at"]]
    if "goodput" not in r:
        return (
            head + [num(r.get("total"))] + ["-"] * 18 + ["-" if r.get("seed") is None else str(r["seed"]), r["status"]]
        )
    w, n = r["worst"], max(1, r["sent"])
    door = "-" if r["refused"] is None else pct(r["refused"] / n) + "*" if r["door"] is None else pct(r["door"] / n)
    cores = r.get("threads", {})
    notes = "; ".join([r["status"]] + r.get("notes", []))
    return head + [
        num(r["offered"]),
        num(r["goodput"]),
        pct(r["attainment"]),
        pct(w["attainment"]),
        w["name"],
        door,
        pct(r["queue"] / n) if r["queue"] is not None else "-",
        pct(r["late"] / n) if r["late"] is not None else "-",
        pct(r["other"] / n),
        *stages(w),
        num(r["mean_batch"], 1),
        *[num(cores.get(k, [None])[0], 2) for k in ("server", "worker", "generator")],
        r.get("learnt", "-"),
        str(r["seed"]),
        notes,
    ]


def print_rows(title, rows, out):
    if not rows:
        return
    lines = [cells(r) for r in rows]
    width = [max(len(c), *(len(x[i]) for x in lines)) for i, c in enumerate(COLUMNS)]
    out.write(f"\n{title}\n")
    for x in [COLUMNS] + lines:
        out.write(
            "  ".join(v.ljust(k) if c in LEFT else v.rjust(k) for v, k, c in zip(x, width, COLUMNS)).rstrip() + "\n"
        )


def latest(rows):
    """One row per key: the last one counts."""
    return list({key_of(r): r for r in rows}.values())


def key_of(r):
    return r["label"], r["case"], r["at"], r.get("seed"), r.get("device"), r.get("slow", 1)


def order(r):
    return r["case"], r.get("total") or 0, r["label"], r.get("seed") or 0


def below(r):
    return r["worst"]["attainment"] is None or r["worst"]["attainment"] < 0.99


def table(rows, out):
    rows = sorted(latest(rows), key=order)
    out.write(HEAD + "\n")
    for kind in sorted({(r.get("device", "-"), r.get("profile", "-"), r.get("slow", 1)) for r in rows}):
        out.write(
            "device {}, profile {}{}\n".format(
                kind[0], kind[1], f", everything {kind[2]:g} x slower" if kind[2] != 1 else ""
            )
        )
    planned = sorted({(r["workload"], r["slo_set"], r["policy"], r["planned"]) for r in rows})
    for w, s in sorted({p[:2] for p in planned}):
        out.write(
            f"planned for {w}, SLOs {s}: "
            + ", ".join(f"{p[2]} {p[3]:.0f}/s" if p[3] else f"{p[2]} no plan" for p in planned if p[:2] == (w, s))
            + "\n"
        )
    fine = [r for r in rows if r["status"] == "ok"]
    print_rows("Rows that failed or have no plan", [r for r in rows if r["status"] != "ok"], out)
    print_rows(
        "Misses: the worst model below 99 % at no more than the planned rate",
        [r for r in fine if below(r) and not over(r)],
        out,
    )
    print_rows("Kept: every model at 99 % or more", [r for r in fine if not below(r)], out)
    print_rows("Overload: more than the planned rate of `optimal`", [r for r in fine if below(r) and over(r)], out)
    compare(fine, out)


def over(r):
    return bool(r.get("planned_optimal")) and r["total"] > 1.001 * r["planned_optimal"]


def best_variants(rows):
    """{(workload, slo set, total, at, label): {policy: (goodput, attainment, worst model, variant, seeds, offered)}}: means over the seeds, the
    worst model of all of them, and of a policy's variants the one with the most goodput."""
    by = defaultdict(list)
    for r in rows:
        by[r["label"], r["workload"], r["slo_set"], r["total"], r["at"], r["policy"], r["variant"]].append(r)
    ret = defaultdict(dict)
    for (label, w, s, total, at, policy, variant), rs in by.items():
        now = (
            mean(r["goodput"] for r in rs),
            mean(r["attainment"] for r in rs),
            min(r["worst"]["attainment"] or 0 for r in rs),
            variant,
            len(rs),
            mean(r["offered"] for r in rs),
        )
        place = ret[w, s, total, at, label]
        if policy not in place or now[0] > place[policy][0]:
            place[policy] = now
    return ret


def compare(rows, out):
    found = best_variants(rows)
    if not found:
        return
    out.write(
        "\nThe policies at the same offered rate: goodput/s, attainment %, worst model %, variant (the better one of each), seeds\n"
    )
    lines = [["workload", "SLOs", "label", "x", "offered/s", "optimal", "temporal", "shared", ""]]
    for (w, s, total, at, label), p in sorted(found.items()):
        line = [w, s, label, at, num(total)]
        line += [
            "{} {} {} {} {}".format(num(p[k][0]), pct(p[k][1]), pct(p[k][2]), p[k][3], p[k][4]) if k in p else "-"
            for k in ("optimal", "temporal", "shared")
        ]
        worse = [k for k in ("temporal", "shared") if "optimal" in p and k in p and p["optimal"][0] < 0.995 * p[k][0]]
        lines.append(line + [f"BELOW {' and '.join(worse)}" if worse else ""])
    width = [max(len(x[i]) for x in lines) for i in range(len(lines[0]))]
    for x in lines:
        out.write("  ".join(v.ljust(k) for v, k in zip(x, width)).rstrip() + "\n")


def plot(rows, directory):
    """One picture per workload and SLO set; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    os.makedirs(directory, exist_ok=True)
    fine = [r for r in latest(rows) if r["status"] == "ok"]
    colours = {"optimal": "tab:blue", "temporal": "tab:orange", "shared": "tab:green"}
    styles = ["-", "--", ":", "-."]
    paths = []
    for w, s in sorted({(r["workload"], r["slo_set"]) for r in fine}):
        mine = [r for r in fine if (r["workload"], r["slo_set"]) == (w, s)]
        labels = sorted({r["label"] for r in mine}, key=lambda x: (x != "now", x))
        figure, axes = plt.subplots(1, 2, figsize=(12, 4.8))
        most = max(r["total"] for r in mine)
        axes[0].plot([0, most], [0, most], color="0.8", linewidth=1, label="all in time")
        lines = defaultdict(list)
        for (_, _, _, _, label), policies in sorted(best_variants(mine).items()):
            for policy, v in policies.items():
                lines[policy, label].append((v[5], *v))
        for (policy, label), points in sorted(
            lines.items(), key=lambda x: (list(colours).index(x[0][0]), labels.index(x[0][1]))
        ):
            variants = sorted({p[4] for p in points} - {"default"})
            name = f"{policy}, {label}" + (f" ({'/'.join(variants)})" if variants else "")
            how = {
                "color": colours[policy],
                "linestyle": styles[labels.index(label) % len(styles)],
                "marker": "o",
                "markersize": 4,
                "label": name,
            }
            axes[0].plot([p[0] for p in points], [p[1] for p in points], **how)
            axes[1].plot([p[0] for p in points], [100 * p[2] for p in points], **how)
        for i, (policy, rate) in enumerate(sorted({(r["policy"], r["planned"]) for r in mine if r.get("planned")})):
            for a in axes:
                a.axvline(rate, color=colours[policy], linewidth=0.8, alpha=0.6)
            axes[1].annotate(
                f"planned by {policy}",
                (rate, 2 + 26 * i),
                rotation=90,
                fontsize=7,
                color=colours[policy],
                ha="right",
                va="bottom",
            )
        axes[0].set_ylabel("goodput, requests/s in time")
        axes[1].set_ylabel("attainment, % (mean of the seeds)")
        axes[1].set_ylim(0, 102)
        for a in axes:
            a.set_xlabel("offered requests/s")
            a.set_xlim(0, None)
            a.grid(True, alpha=0.3)
        axes[0].set_ylim(0, None)
        axes[0].legend(fontsize=8)
        slow = mine[0].get("slow", 1)
        figure.suptitle(f"{w}, SLOs {s}, {mine[0].get('device', '')}" + (f", {slow:g} x slower" if slow != 1 else ""))
        figure.tight_layout()
        path = os.path.join(directory, re.sub(r"[^\w.-]", "_", f"{os.path.basename(w)}-{s}") + ".png")
        figure.savefig(path, dpi=110)
        plt.close(figure)
        paths.append(path)
    return paths
