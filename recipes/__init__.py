"""One YAML per experiment; found with importlib.resources.files("pam_kit.recipes")."""
