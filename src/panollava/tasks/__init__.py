"""What is asked of the model and how it is scored: prompts, answers in text, their typed meaning, and the metrics."""

# Choice questions whose mean accuracy is the headline number; the other types of choice questions are reported beside.
CLOSED_TYPES = ("existence", "colour", "shape", "count", "direction8", "relation", "look")
# The type of detection questions that ask for what a description fits; their numbers stand beside those of detection.
DESCRIBED = "detection_described"
