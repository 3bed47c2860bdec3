#!/usr/bin/env python3
"""Writes prometheusrule.yaml beside it from the rules in ../../../prometheus."""

import pathlib
import textwrap

FOLDER = pathlib.Path(__file__).resolve().parent
RULES = FOLDER.parents[2] / "prometheus"
HEAD = """\
# Written by build.py from ../../../prometheus/*.rules.yml: change those.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: weir
  labels:
    app.kubernetes.io/name: weir
spec:
  groups:
"""


def main():
    files = [RULES / "weir.recording.rules.yml", RULES / "weir.alerts.rules.yml"]
    groups = [file.read_text().partition("\ngroups:\n")[2].strip("\n") + "\n" for file in files]
    (FOLDER / "prometheusrule.yaml").write_text(HEAD + textwrap.indent("\n".join(groups), "  "))


if __name__ == "__main__":
    main()
