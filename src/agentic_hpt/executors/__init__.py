"""Where trials run: in the driver's process, or each in a process of its own."""
