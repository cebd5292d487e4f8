"""Azure's network for one lab: real packets, moved only as the emulator's resources say."""
