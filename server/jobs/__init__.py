"""Work that outlasts a call: kept, run, uploaded to."""
