"""docs/check_links.py finds what is broken and nothing else."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docs" / "check_links.py"

README = """# A title: `attach` & co
[page](docs/page.md) [part](docs/page.md#second-part) [again](docs/page.md#second-part-1) [folder](docs/)
![plot](docs/plot.png "title") [here](#a-title-attach--co) [named][ref]
[elsewhere](https://example.org/no) [mail](mailto:a@example.org)

[ref]: docs/page.md

`[not a link](nowhere.md)`
```
[not a link](nowhere.md)
```
"""
PAGE = "# Page\n## Second part\n```\n# not a heading\n```\n## Second part\n"
BROKEN = """[a](gone.md)
![b](docs/gone.png)
[c](#gone)
[d](docs/page.md#not-a-heading)
[e](../outside.md)
[f]: gone-too.md
"""


def check(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, root], capture_output=True, text=True, check=False)


def lay_out(root: Path, readme: str) -> None:
    (root / "docs").mkdir()
    (root / "README.md").write_text(readme, encoding="utf-8")
    (root / "docs" / "page.md").write_text(PAGE, encoding="utf-8")
    (root / "docs" / "plot.png").touch()


def test_sound_links_pass(tmp_path: Path) -> None:
    lay_out(tmp_path, README)
    done = check(tmp_path)
    assert (done.returncode, done.stdout) == (0, "9 links in 2 pages, 0 broken\n")


def test_each_kind_of_fault_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path, README + BROKEN)
    done = check(tmp_path)
    first = len(README.splitlines()) + 1
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"README.md:{first}: gone.md: no such file",
        f"README.md:{first + 1}: docs/gone.png: no such file",
        f"README.md:{first + 2}: #gone: no such heading",
        f"README.md:{first + 3}: docs/page.md#not-a-heading: no such heading",
        f"README.md:{first + 4}: ../outside.md leads out of the repository",
        f"README.md:{first + 5}: gone-too.md: no such file",
        "15 links in 2 pages, 6 broken",
    ]
