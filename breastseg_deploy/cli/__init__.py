"""The command line `breastseg`. Each subcommand is a module with a `COMMAND`, found by its entry point."""
