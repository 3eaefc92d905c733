"""Export of a checkpoint to a verified bundle. Modules are imported by name; this file stays light."""
