origin = "installed"
