"""What machines and containers of the real cluster have on their disks."""
