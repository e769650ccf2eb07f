"""Each node and control process as a twistd service: options, the service, what runs the core."""
