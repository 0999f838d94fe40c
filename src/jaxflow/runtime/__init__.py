"""Where and how arrays are computed: checks, precision, chunks of rows, devices, processes."""
