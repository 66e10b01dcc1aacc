"""Forecasts of demand against rules that look back: cold starts, and instances kept for nobody, over replayed arrivals.

tools/bench forecast runs it.  Two series are published traces, read from the folder that BLIXARD_TRACES names (shared/data beside
the checkout when it names none); the made ones are always there.
"""
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build")).resolve()


def measure(quick, long):
    del quick, long  # a second of work
    folder = os.environ.get("BLIXARD_TRACES", ROOT.parent / "shared" / "data")
    ran = subprocess.run([BUILD / "test" / "bench" / "forecast-bench", folder], check=True, stdout=subprocess.PIPE)
    series = json.loads(ran.stdout)["series"]
    print("\nCalls that found no instance, and instance-hours kept for nobody; in brackets, of what `reactive` has")
    for one in series:
        print(f"\n{one['name']}: {one['what']}; steps of {one['step_s']} s, believed at the end: {one['model']}")
        reactive = next(rule for rule in one["rules"] if rule["rule"] == "reactive")
        print(f"{'':<14}{'calls':>10}{'cold':>8}{'':>9}{'idle h':>10}{'':>9}{'idle/busy':>11}")
        for rule in one["rules"]:
            cold, idle = (f"({rule[key] / reactive[key]:.2f})" if reactive[key] else "" for key in ("cold", "idle_s"))
            print(f"{rule['rule']:<14}{rule['judged']:>10}{rule['cold']:>8}{cold:>9}{rule['idle_s'] / 3600:>10.1f}{idle:>9}"
                  f"{rule['idle_s'] / rule['busy_s']:>11.2f}")
    return {"series": series}
