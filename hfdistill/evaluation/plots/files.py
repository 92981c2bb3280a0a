"""The names of the pictures beside a card."""

FOLDER = "plots"
PLOTS = {
    "trials": "What the search for this student tried: what each candidate keeps, over its latency.",
    "loss": "The loss and its parts over the optimizer steps.",
    "reliability": "Right answers over confidence, and the rows of each confidence.",
    "confusion": "Which classes the student takes for which, against the labels and the teacher.",
    "classes": "The recall of each class, the teacher's and the student's.",
}
"""Name of the file, without its ending, and what it shows."""
