"""What all packages share: argument checks, precision, chunks of rows, devices and processes."""
