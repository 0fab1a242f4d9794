"""A fan-out on a real SLURM with jobs killed in the middle leaves what the inline run leaves.

    apt-get install slurm-wlm munge
    python -m benchmarks.slurm [--profile smoke] [--nodes 3] [--keep FOLDER]

It starts a cluster of its own in a temporary folder: munged, one controller and several nodes, all
on this machine and of this user, none of the system's configuration touched. On it the heavy work
of a profile is fanned out, while one job is killed by SLURM, the process of another by `kill -9`
(as the system does when memory runs out), and a third is requeued (as preemption does). Then every
file of the run is compared with those of a run in one process. Exit status 0: all as it should be.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.run_files import digests

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
CONFIGURATION = """\
ClusterName=proof
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=1
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=node[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=1
PartitionName=main Nodes=node[1-{nodes}] Default=YES MaxTime=60 State=UP
"""
SETTINGS = "executor: slurm\npartition: main\nminutes: 30\ncpus: 1\nretries: 1\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slurm", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--profile", default="smoke", help="default: smoke")
    parser.add_argument("--nodes", type=int, default=3, help="default: 3")
    parser.add_argument("--keep", type=Path, help="keep the runs and the cluster's logs here")
    options = parser.parse_args(arguments)
    if absent := [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]:
        print(f"not installed: {', '.join(absent)} (apt-get install slurm-wlm munge)")
        return 2
    with ExitStack() as stack:
        if options.keep is None:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="fitclip-slurm-"))
            folder = Path(name)
        else:
            folder = options.keep.resolve()
            folder.mkdir(parents=True)
        folder.chmod(0o755)  # munge wants its socket in reach of everyone
        inline = fan_out(folder / "inline", options.profile)
        took = [wait(inline)]
        environment = stack.enter_context(cluster(folder / "cluster", options.nodes))
        (folder / "slurm.yaml").write_text(SETTINGS)
        shared = fan_out(folder / "slurm", options.profile, folder / "slurm.yaml", environment)
        harm = Harm(folder / "slurm" / options.profile / "fan_out", environment)
        took.append(wait(shared, harm.look))
        said = shared.said.read_text()
        print(f"inline {took[0]:.0f} s, on SLURM {took[1]:.0f} s; its output:\n{said}")
        print("jobs on", ", ".join(f"{node}: {n}" for node, n in sorted(harm.nodes().items())))
        for deed in harm.done:
            print(deed)
        ours, theirs = (
            digests(folder / executor / options.profile, without=["fan_out"])
            for executor in ("slurm", "inline")
        )
        unequal = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        print(f"{len(theirs)} files inline, {len(ours)} on SLURM, {len(unequal)} unequal")
        for name in unequal[:10]:
            print(f"  {name}")
        repaired = said.count("done at another attempt")
        fine = (
            not unequal
            and [one.returncode for one in (inline, shared)] == [0, 0]
            and len(harm.done) == len(harm.deeds)
            and repaired == 2  # the third was requeued by SLURM itself
        )
    print("as it should be" if fine else f"NOT as it should be ({repaired} attempts made good)")
    return 0 if fine else 1


class Process(subprocess.Popen[bytes]):
    """A process whose output goes to a file."""

    said: Path


def start(command: Sequence[str], said: Path, environment: dict[str, str] | None = None) -> Process:
    """Start a process; what it says is kept."""
    with said.open("wb") as file:
        process = Process(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    process.said = said
    return process


def fan_out(
    runs: Path,
    profile: str,
    settings: Path | None = None,
    environment: dict[str, str] | None = None,
) -> Process:
    """Start the fan-out of a profile, inline where there are no settings."""
    command = [sys.executable, "-m", "fitclip_kit.engine.cli", "cluster", "--profile", profile]
    command += ["--runs-dir", str(runs)]
    if settings is not None:
        command += ["--settings", str(settings)]
    return start(command, runs.with_suffix(".txt"), environment)


def wait(process: Process, meanwhile: Callable[[], None] = lambda: None) -> float:
    """Wait for a process that was just started, doing something now and then; seconds it took."""
    start = time.monotonic()
    try:
        while process.poll() is None:
            meanwhile()
            time.sleep(0.2)
    finally:
        end(process)
    if process.returncode:
        print(process.said.read_text())
    return time.monotonic() - start


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, kindly first."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def cluster(folder: Path, nodes: int) -> Iterator[dict[str, str]]:
    """A SLURM cluster on this machine; the environment in which its commands are called."""
    for name in ("munge", "state", *(f"spool-node{number + 1}" for number in range(nodes))):
        (folder / name).mkdir(parents=True)
    key = folder / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    port, *ports = free_ports(nodes + 1)
    host = socket.gethostname().partition(".")[0]
    values = {"folder": folder, "host": host, "user": getpass.getuser(), "nodes": nodes}
    values |= {"port": port, "first": ports[0], "last": ports[-1]}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
    environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
    munge = ["munged", "--foreground", f"--key-file={key}", f"--socket={folder}/munge/socket"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    daemons = [munge, ["slurmctld", "-D"]]
    daemons += [["slurmd", "-D", "-N", f"node{number + 1}"] for number in range(nodes)]
    started: list[Process] = []
    try:
        for number, command in enumerate(daemons):
            started.append(start(command, folder / f"daemon-{number}.txt", environment))
            time.sleep(1)
        for _ in range(60):
            answer = ask(["sinfo", "--noheader", "--format=%T %D"], environment).split()
            if answer == ["idle", str(nodes)]:
                break
            time.sleep(1)
        else:
            raise RuntimeError(f"the nodes do not come up ({answer}); see --keep FOLDER")
        yield environment
    finally:
        subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=environment)
        for process in reversed(started):
            end(process)


class Harm:
    """Harms three running jobs of a fan-out, each once, in the middle of its work."""

    def __init__(self, logs: Path, environment: dict[str, str]) -> None:
        self.logs, self.environment = logs, environment
        # job name -> what its log says in the middle, and what is done then
        self.deeds: dict[str, tuple[str, Callable[[str], str]]] = {
            "fitclip-teacher": ("", self.requeue),
            "fitclip-sweep": (r"\b[1-5]/6 ", self.kill_job),
            "fitclip-subset-sizes": (r"cells", self.kill_process),
        }
        self.done: list[str] = []
        self.seen: dict[str, str] = {}  # job -> the node it was last seen on

    def look(self) -> None:
        """See what runs, and do what is due."""
        answer = ask(["squeue", "--noheader", "--array", "--format=%i %j %T %N"], self.environment)
        for line in answer.splitlines():
            job, name, state, *node = line.split()
            if state != "RUNNING":
                continue
            self.seen[job] = node[0]
            text, deed = self.deeds.get(name, ("", None))
            said = "".join(log.read_text() for log in self.logs.glob(f"*/{job}_0_log.out"))
            if deed and said and re.search(text, said) and not self.was_done(name):
                self.done.append(f"{name}: job {job} on {node[0]} was {deed(job)}")

    def was_done(self, name: str) -> bool:
        """Whether a job of this name was harmed."""
        return any(one.startswith(f"{name}:") for one in self.done)

    def nodes(self) -> Counter[str]:
        """How many jobs were seen on each node."""
        return Counter(self.seen.values())

    def requeue(self, job: str) -> str:
        """As preemption does."""
        ask(["scontrol", "requeue", job], self.environment)
        return "requeued"

    def kill_job(self, job: str) -> str:
        """As a user or the time limit does; KillWait says how soon."""
        ask(["scancel", "--signal=KILL", job], self.environment)
        return "killed by scancel --signal=KILL"

    def kill_process(self, job: str) -> str:
        """As the system does when memory runs out."""
        array, _, place = job.partition("_")
        wanted = {f"SLURM_JOB_ID={job}"}
        if place:
            wanted = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={place}"}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_text().split("\0")
                variables = set((folder / "environ").read_text(errors="replace").split("\0"))
            except OSError:  # ended, or another user's
                continue
            if "python" in words[0] and "submitit.core._submit" in words and wanted <= variables:
                os.kill(int(folder.name), signal.SIGKILL)
                return f"killed by kill -9 {folder.name}"
        return "not found"


def ask(command: Sequence[str], environment: dict[str, str]) -> str:
    """What a command of SLURM says."""
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def free_ports(number: int) -> list[int]:
    """Ports that are free now, the first of which may be anywhere and the others in a row."""
    for first in range(17000, 32000, 100):
        ports = range(first, first + number)
        with ExitStack() as stack:
            try:
                for port in ports:
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return list(ports)
    raise RuntimeError("no free ports")


def _path() -> str:
    """The daemons may lie where only root looks."""
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


if __name__ == "__main__":
    sys.exit(main())
