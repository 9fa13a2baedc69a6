"""Who may run: strictly first come, first served, and only what fits together."""

from collections.abc import Sequence
from dataclasses import dataclass

from .devices import Device, Host

_GIB = 2**30


@dataclass(frozen=True)
class Running:
    """A job that runs. `needed_bytes` None means a whole device, since nobody knows."""

    job_id: str
    device: str | None
    needed_bytes: int | None


@dataclass(frozen=True)
class Turn:
    """It may run, on this GPU; None on the CPU."""

    device: str | None


@dataclass(frozen=True)
class Wait:
    """It has to wait, for this."""

    reason: str


def choose(
    needed: int | None, running: Sequence[Running], devices: Sequence[Device], host: Host, at_once: int | None
) -> Turn | Wait:
    """Whether a job that needs so many bytes (None: unknown) may start beside those that run."""
    if at_once is not None and len(running) >= at_once:
        return Wait(f"{len(running)} jobs run, and {at_once} may at once")
    return _on_gpus(needed, running, devices) if devices else _on_host(needed, running, host)


def _on_gpus(needed: int | None, running: Sequence[Running], devices: Sequence[Device]) -> Turn | Wait:
    reasons = []
    # Most free memory first, so that a job which fits nowhere for sure has the best of them.
    for device in sorted(devices, key=lambda item: -(item.free_bytes or 0)):
        ours = [job for job in running if job.device == device.id]
        reason = _obstacle(needed, ours, device)
        if reason is None:
            return Turn(device.id)
        reasons.append(reason)
    return Wait("; ".join(sorted(reasons)))


def _obstacle(needed: int | None, ours: Sequence[Running], device: Device) -> str | None:
    """What keeps a job off a GPU; None where nothing does. Where none of ours runs it starts: failing early is better."""
    if not ours:
        return None
    names = ", ".join(job.job_id for job in ours)
    if needed is None or device.total_bytes is None or device.free_bytes is None or _unknown(ours):
        return f"{device.label}: {names} runs there, and what both need together is not known"
    taken = sum(job.needed_bytes or 0 for job in ours)
    if taken + needed > device.total_bytes:
        total = f"{taken / _GIB:.1f} of {device.total_bytes / _GIB:.1f} GiB taken"
        return f"{device.label}: {total} by {names}, needs {needed / _GIB:.1f}"
    if needed > device.free_bytes:
        return f"{device.label}: {device.free_bytes / _GIB:.1f} GiB free now, needs {needed / _GIB:.1f}"
    return None


def _on_host(needed: int | None, jobs: Sequence[Running], host: Host) -> Turn | Wait:
    # What a job on a GPU needs is memory of that GPU.
    running = [job for job in jobs if job.device is None]
    if not running:
        return Turn(None)
    names = ", ".join(job.job_id for job in running[:3]) + (" and others" if len(running) > 3 else "")
    if len(running) >= host.at_once:
        return Wait(f"{names} run, and {host.at_once} may at once on these cores")
    if needed is None or _unknown(running):
        return Wait(f"{names} run, and what all need together is not known")
    taken = sum(job.needed_bytes or 0 for job in running)
    if taken + needed > host.total_bytes:
        total = f"{taken / _GIB:.1f} of {host.total_bytes / _GIB:.1f} GiB of host memory taken"
        return Wait(f"{total} by {names}, needs {needed / _GIB:.1f}")
    if needed > host.free_bytes:
        return Wait(f"{host.free_bytes / _GIB:.1f} GiB of host memory free now, needs {needed / _GIB:.1f}")
    return Turn(None)


def _unknown(jobs: Sequence[Running]) -> bool:
    return any(job.needed_bytes is None for job in jobs)
