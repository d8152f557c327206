"""A model of a burst: thousands of nodes want one image at once. Pure functions of a scenario and a seed; numpy."""
