"""`myxo lab`: the experiment lab's commands, each loaded when it is asked for."""

import typer

from bench.lab.experiments.cli import db_app, experiments_app
from bench.lab.loading.cli import load_app
from bench.lab.queueing.compare_cli import compare
from bench.lab.queueing.queues_cli import queues_app, results
from bench.lab.queueing.sim_cli import sim_app
from bench.lab.reporting.cli import report
from bench.lab.traces.cli import trace_app
from bench.netlab.cli import net_app
from overlay import options
from overlay.cli import new_app

_HELP = """Experiments on one machine.

Examples:

\b
  myxo lab net up --hosts 5 --preset wan     five hosts on slow links
  myxo lab load http://127.0.0.1:8080/ --profile constant:50 --duration 10s
  myxo lab trace gen -o trace.csv            a trace of requests
  myxo lab compare --policy rr,two_choices   policies on the same traces
  myxo lab report --policies rr,random hello policies on a service of this network
  myxo lab experiments submit load.json      a load, queued, run and recorded
"""

app = new_app(_HELP, no_args_is_help=True)
app.add_typer(net_app, name="net")
app.add_typer(load_app, name="load")
app.add_typer(trace_app, name="trace")
app.add_typer(sim_app, name="sim")
app.add_typer(queues_app, name="queues")
app.command("compare")(compare)
app.command("results")(results)
app.command("report")(report)
app.add_typer(experiments_app, name="experiments")
app.add_typer(db_app, name="db")


@app.callback()
def lab(version: options.Version = False) -> None:
    """Take the flags that stand before a sub-command."""
    del version


def main() -> None:
    """Run as `python -m bench.lab`."""
    typer.main.get_command(app)(prog_name="myxo lab")
