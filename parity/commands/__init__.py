"""One module for each verb of ``ltx2-parity``: its arguments and what it prints."""
