"""The rescuer: finds the runs whose end nobody will report, by evidence, and ends them as lost."""
