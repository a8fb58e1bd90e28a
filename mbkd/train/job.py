"""One rank of a job that trains a student or teachers, started by `mbkd` or the `deepspeed` launcher."""

import argparse
import gc
import os
import re
import sys
import time
from pathlib import Path

from mbkd.config import paper
from mbkd.errors import STOPPED, UNAVAILABLE, Stopped, TransientError, UserError, is_transient, lost_rank
from mbkd.terminal.bars import no_bars_in_files
from mbkd.train import tracking
from mbkd.train.launch import gloo_interface


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line of a job. `mbkd train` and the scripts in launchers/ use the same one."""
    parser = argparse.ArgumentParser(prog="distill.py", description=__doc__)
    parser.add_argument("config", help="a YAML file, or a name from `mbkd recipes`")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example train.lr=2e-5")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for run directories (default: runs)")
    parser.add_argument("--teach", action="store_true", help="fine-tune the teachers instead of the student")
    parser.add_argument("--cache", action="store_true", help="only build the cache of teacher logits")
    parser.add_argument(
        "--checkpoint-minutes", type=float, default=10.0, help="minutes between checkpoints (default: 10)"
    )
    parser.add_argument("--checkpoint-steps", type=int, help="steps between additional checkpoints (default: none)")
    parser.add_argument("--log", default="tensorboard", help="tensorboard (default), wandb, mlflow or none")
    parser.add_argument("--part", default="0/1", help="I/N: every N-th teacher, starting at I (default: 0/1, all)")
    parser.add_argument("--verbose", action="store_true", help="show the output of DeepSpeed and transformers")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the launcher passes it
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> list[Path]:
    """Run the job on this rank. Returns the run directories on the first rank, and [] on the others.

    Exit codes: 2 after an error that the user can correct, UNAVAILABLE after a transient error (each with one
    message), STOPPED after a signal, 1 if another rank died.
    """
    asked = arguments(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in mbkd.cli, for jobs started without `mbkd`
    no_bars_in_files()
    first = True
    try:
        config = paper.find(asked.config, asked.overrides)
        tracking.refuse_missing(asked.log)
        # Imports torch, DeepSpeed and transformers only after the configuration is validated. Their objects live until
        # the end, so the garbage collector skips them. This saves time at the imports and at the end.
        gc.disable()
        from mbkd import distributed
        from mbkd.data import hub
        from mbkd.train.checkpoint import Schedule
        from mbkd.train.run import prepared, run

        gc.freeze()
        gc.enable()
        if not asked.verbose:
            distributed.quiet()
        ranks = distributed.start()
        first = ranks.first
        hub.keep(asked.runs / "store")
        if asked.cache:
            from mbkd.distill.signals import open_source

            open_source(config, prepared(config, asked.runs, ranks), asked.runs, ranks)
            distributed.stop()
            return []
        part, parts = map(int, asked.part.split("/"))
        wanted = list(paper.teacher_runs(config))[part::parts] if asked.teach else [config]
        every = (asked.checkpoint_minutes, asked.checkpoint_steps)
        directories = [run(each, asked.runs, ranks, Schedule(*every), asked.log) for each in wanted]
        distributed.stop()
        return directories if first else []
    except Stopped as stopped:
        if first:
            print(stopped, file=sys.stderr, flush=True)
        sys.exit(STOPPED)
    except (UserError, TransientError, OSError, RuntimeError) as error:
        if lost_rank(error):
            print("error: another rank has ended, so this rank stops too", file=sys.stderr, flush=True)
            time.sleep(5)  # lets the launcher see the exit code of the failed rank first
            os._exit(1)  # clean-up would wait for the lost rank
        named = of_torch(error) if isinstance(error, RuntimeError) else error
        if named is None:
            raise
        if not first:
            time.sleep(3)  # if the first rank fails too, the launcher ends this rank before it repeats the message
        print(f"error: {named}", file=sys.stderr, flush=True)
        sys.exit(UNAVAILABLE if is_transient(named) else 2)
    except KeyboardInterrupt:
        sys.exit(130)


def of_torch(error: RuntimeError) -> UserError | TransientError | None:
    """Translate an error of torch into a message for the user, by its text. None for unknown errors."""
    said = str(error).strip() or type(error).__name__
    if "out of memory" in said or "can't allocate memory" in said:  # of a GPU; of the system
        first = said.splitlines()[0]
        if others := re.findall(r"Process (\d+) has ([\d.]+ \w+) memory in use", said):
            each = ", ".join(f"process {number} has {size}" for number, size in others)
            return TransientError(
                f"not enough GPU memory, because other processes use it ({each}): {first.split('. ')[0]}"
            )
        return UserError(
            f"not enough memory ({first}); raise train.accumulation, which splits a batch into "
            "micro-batches, or lower train.max_length; `mbkd plan` estimates the memory needed"
        )
    if type(error).__module__ in ("torch._dynamo.exc", "torch._inductor.exc"):
        return UserError(
            f"train.compile: torch cannot compile the layers ({said.splitlines()[0]}); install Triton for a GPU or "
            "a C++ compiler for a CPU, or set train.compile=false"
        )
    if "gloo" in said and any(words in said for words in ("Unable to find address", "connectFullMesh", "resolve")):
        here, problem = gloo_interface()
        return UserError(
            f"the ranks cannot reach each other; gloo's interface is {here}{problem and f': {problem}'}. Set "
            f"GLOO_SOCKET_IFNAME to an interface that all machines share ({said.splitlines()[0]})"
        )
    if "EADDRINUSE" in said:  # `mbkd` retries with another port
        here = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        return TransientError(
            f"the ranks cannot connect at {here}: the port is in use, perhaps by another job on this machine; if you "
            "start the launcher yourself, give a free port with --master_port"
        )
    return None


if __name__ == "__main__":
    main()
