"""Import the message log of the Strands SDK's older session managers."""
