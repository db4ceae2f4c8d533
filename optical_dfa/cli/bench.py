"""The command `optical-dfa bench`: progress, table, files."""

from rich.console import Console

from optical_dfa.bench.markdown import to_markdown
from optical_dfa.bench.report import to_json
from optical_dfa.bench.run import Options, run
from optical_dfa.bench.terminal import show
from optical_dfa.files import write_text_whole


def run_bench(options: Options, console: Console) -> None:
    """Measure, print the report, and write it where `options.out` says.

    Raises:
        InputError: the options are not accepted; nothing was measured.
        ChildProcessError: a process failed.
    """
    with console.status("starting") as status:
        report = run(options, lambda what: status.update(f"measuring {what}"))
    show(report, console)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        for suffix, text in ((".md", to_markdown(report)), (".json", to_json(report))):
            path = options.out / f"bench-{report.machine.slug}{suffix}"
            write_text_whole(path, text)
            console.print(str(path), soft_wrap=True)
