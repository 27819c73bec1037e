"""What a run is: the scenario and the parts it is made of."""
