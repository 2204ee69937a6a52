"""The course's figures: a small vocabulary of charts, and the drawings that explain. Each returns a Figure.

Each takes plain numbers. In a notebook, end the cell with an assignment, `figure = plots.lines(...)`: Jupyter then
shows the figure once.
"""

# ruff: noqa: F401
from course_utils.plots.charts import bars, lines, timeline
from course_utils.plots.diagrams import placement, training_step
