"""`ini.py set|add FILE SECTION OPTION VALUE`: DevStack's iniset and iniadd."""

import sys
from pathlib import Path


def main() -> None:
    verb, name, section, option, value = sys.argv[1:]
    path = Path(name)
    lines = path.read_text().splitlines() if path.exists() else []
    if f"[{section}]" not in lines:
        lines.append(f"[{section}]")
    begin = lines.index(f"[{section}]") + 1
    end = next((at for at in range(begin, len(lines)) if lines[at].startswith("[")), len(lines))
    kept = [line for line in lines[begin:end] if verb == "add" or line.partition(" =")[0] != option]
    lines[begin:end] = [*kept, f"{option} = {value}"]
    path.write_text("\n".join(lines) + "\n")


main()
