"""Commands of the app ``hydracache``."""
