"""The table of values in helm/README.md, made from the comments in helm/values.yaml that begin with `# --`."""

import json
import re
import sys

import yaml
from chart import CHART

BEGIN, END = "<!-- made from values.yaml by tests/chart/run --write -->", "<!-- end -->"


def documented():
    """Every value with a comment of its own, in the order of the file: its path and what the comment says."""
    parents, comment = [], []
    for line in (CHART / "values.yaml").read_text().splitlines():
        text = line.strip()
        if text.startswith("# -- "):
            comment = [text.removeprefix("# -- ")]
        elif text.startswith("#") and comment:
            comment.append(text.lstrip("# "))
        elif match := re.match(r"( *)([\w]+):", line):
            depth = len(match[1]) // 2
            parents = [*parents[:depth], match[2]]
            if comment:
                yield tuple(parents), " ".join(comment)
            comment = []
        else:
            comment = []


def table():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    lines = ["| value | default | |", "|---|---|---|"]
    for path, comment in documented():
        default = values
        for key in path:
            default = default[key]
        # What is described part by part has no row-filling default of its own.
        parts = any(other[: len(path)] == path and other != path for other, _ in documented())
        shown = "" if parts or default == "" else f"`{json.dumps(default, ensure_ascii=False)}`".replace("|", "\\|")
        shown = f"`{default}`" if isinstance(default, str) and default else shown
        lines.append(f"| `{'.'.join(path)}` | {shown} | {comment.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def with_table(readme):
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    path = CHART / "README.md"
    path.write_text(with_table(path.read_text()))
