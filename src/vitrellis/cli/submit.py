"""`vitrellis launch`: trains a recipe as a job of a Slurm cluster."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrellis.cli.console import Quiet
from vitrellis.cli.recipe_names import OverridesArgument, RecipeArgument, load_and_note
from vitrellis.cli.shared_options import JsonOption, output_folder

if TYPE_CHECKING:
    from vitrellis.recipe import Recipe


_Gpus = Annotated[
    int, typer.Option(min=0, help="GPUs on each machine, with a process for each; 0 for the CPU.")
]
_Time = Annotated[
    str,
    typer.Option(
        help="The time limit, as hours:minutes:seconds or days-hours. A training that is not "
        "done by then saves and queues again."
    ),
]
_Partition = Annotated[
    str | None, typer.Option(help="The partition; by default the cluster's own.")
]
_Cpus = Annotated[int | None, typer.Option(min=1, help="Cores for each process.")]
_Sbatch = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Any other option of sbatch; may be repeated."),
]
_Out = Annotated[
    Path | None,
    typer.Option(
        help="The run directory, which all machines see. By default runs/ and the recipe's name.",
        callback=output_folder,
    ),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the script, and submit nothing.")]


def launch(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    nodes: Annotated[int, typer.Option(min=1, help="The number of machines.")] = 1,
    gpus: _Gpus = 1,
    time: _Time = "8:00:00",
    partition: _Partition = None,
    cpus: _Cpus = None,
    sbatch: _Sbatch = None,
    out: _Out = None,
    dry_run: _DryRun = False,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe as a job of a Slurm cluster, on one machine or several.

    The job is `vitrellis train` in a process for each GPU. Two minutes before its time limit, or
    when it is preempted (SIGUSR1 or SIGTERM), it saves a checkpoint and puts itself back into the
    queue; the weights in the end are those of a run that was not disturbed. Needs the extra
    `cluster` (pip install 'vitrellis[cluster]').

    The batch size is that of all GPUs together, so that it and the learning rate stay as they are.

    Examples:
      vitrellis launch photos data.root=/shared/photos --gpus 4 --time 8:00:00 --partition gpu
      vitrellis launch cifar100-deit-ti-lg data.root=/shared/cifar --nodes 2 --gpus 4 --dry-run
      vitrellis launch photos data.root=/shared/photos --sbatch account=lab7 --sbatch mem=64G
      vitrellis launch photos data.root=/shared/photos --json > job.json
    """
    from vitrellis.cli.cluster_job import Resources, TrainingJob, minutes_of, script_of, submit
    from vitrellis.cli.console import (
        error_console,
        print_json,
        print_line,
        print_notes,
        training_console,
    )

    changes = overrides or []
    resources = Resources(nodes, gpus, minutes_of(time), partition, cpus, _further(sbatch or []))
    progress = training_console(quiet=quiet, as_json=as_json or dry_run)
    loaded = load_and_note(recipe, changes, progress)
    print_notes(error_console, _notes_on_images(loaded))
    folder = (Path("runs") / loaded.name if out is None else out).resolve()
    job = TrainingJob(recipe, changes, folder)
    logs = folder.parent / "slurm" / folder.name
    if dry_run:
        script = script_of(resources, logs, loaded.name)
        command = shlex.join(["vitrellis", "train", recipe, *changes, "--out", str(folder)])
        if as_json:
            print_json({"run": str(folder), "command": command, "script": script})
            return
        typer.echo(script)
        typer.echo(f"# each process trains as this command does: {command}")
        return
    number = submit(job, resources, logs, loaded.name)
    log = f"{logs}/{number}_0_log.out"
    if as_json:
        print_json({"job": number, "run": str(folder), "log": log})
        return
    for line in (
        f"Job {number} was submitted; its run is {folder}",
        f"  squeue --jobs {number}",
        f"  tail -f {log}",
        f"  scancel {number}",
    ):
        print_line(line)


def _notes_on_images(recipe: Recipe) -> list[str]:
    root = recipe.data.root
    if root is None or root.expanduser().exists():
        return []
    return [f"data.root: {root} does not exist on this machine; the job needs it on its nodes"]


def _further(words: list[str]) -> dict[str, str]:
    """The options of sbatch that were given as `NAME=VALUE`."""
    from vitrellis.errors import UsageError

    pairs = [word.lstrip("-").partition("=") for word in words]
    for word, (name, equals, _) in zip(words, pairs, strict=True):
        if not name or not equals:
            raise UsageError(f"--sbatch {word}: should be NAME=VALUE, such as account=lab7")
    return {name: value for name, _, value in pairs}
