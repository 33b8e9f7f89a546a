"""How fast a run is on the devices here, beside what they could do."""
