"""``omnidrop doctor``: what is installed, what is missing, and the command that mends it."""

from __future__ import annotations

import dataclasses

from clients import contract
from clients.terminal import clean, write_out
from omnidrop_stream.errors import MissingDependency


def doctor(json: bool = False) -> int:
    """Print the report; 0 when files can be asked about, else the code of a missing dependency."""
    from runtime.health import survey, works

    checks = survey()
    fine = works(checks)
    if json:
        rows = [dataclasses.asdict(check) for check in checks]
        message = {"v": contract.VERSION, "type": "doctor", "ok": fine, "checks": rows}
        write_out(contract.line(message))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            write_out(clean(f"{check.state:<9}{check.name:<{width + 2}}{check.detail}").rstrip())
            if check.mend:
                write_out(clean(f"{'':<9}{'':<{width + 2}}-> {check.mend}"))
        write_out(
            "The core works; what is optional may be added."
            if fine
            else "The core does not work: mend what is missing (->) first."
        )
    return 0 if fine else MissingDependency.exit_code
