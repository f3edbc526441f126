"""Where cells run: :mod:`replicate.launch.local` runs them on this machine; a cluster engine would be another file here."""
