"""The parts: interchangeable modules, one file each, one folder per slot."""
