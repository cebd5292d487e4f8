"""The emulator, held to what Azure's own clients expect of Azure."""
