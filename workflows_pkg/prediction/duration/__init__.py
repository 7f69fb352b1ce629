"""How long will an attempt take? Many simple opinions, weighed by how good each has been on this step, with a calibrated interval."""
