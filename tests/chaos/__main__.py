"""``python -m chaos``: a full run."""

import random
import sys

import click
from rich.console import Console

from chaos.run import Size, run


@click.command()
@click.option("--trajectories", default=Size.trajectories, show_default=True)
@click.option("--calls", default=Size.calls, show_default=True, help="Calls of each trajectory.")
@click.option("--workers", default=Size.workers, show_default=True)
@click.option("--faults", default=Size.faults, show_default=True)
@click.option("--seed", type=int, help="Repeats the choices of a run, though not its timing.")
def main(trajectories: int, calls: int, workers: int, faults: int, seed: int | None) -> None:
    """Hurt a fleet while it works, and count what was lost."""
    seed = random.randrange(10**6) if seed is None else seed
    console = Console()
    console.print(f"seed {seed}: {trajectories} trajectories of {calls} calls on {workers} workers, {faults} faults")
    report = run(Size(trajectories, calls, workers, faults), seed)
    console.print(report.table())
    if report.recovered:
        took = sorted(report.recovered)
        console.print(
            f"calls over a change of hands took {took[len(took) // 2]:.1f} s (median), {took[-1]:.1f} s at most"
        )
    for problem in [*report.violations, *report.unexplained, *report.left]:
        console.print(problem, markup=False, style="red")
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    main()
