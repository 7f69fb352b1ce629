"""How does Dagster run it: compile, automation, event reader, metering."""
