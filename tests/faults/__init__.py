"""The long fault suite: ``make faults``. Real components, real time; figures, not only verdicts."""
