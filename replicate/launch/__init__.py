"""Where cells run. :mod:`replicate.launch.local` runs them in this process; a cluster engine would be another file here."""
