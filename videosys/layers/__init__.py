"""The layers the transformers are built of: no model, no cache and no process group is known here."""
