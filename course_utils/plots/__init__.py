"""The course's figures, of plain numbers. End a cell with `figure = plots.lines(...)`:
then Jupyter shows it once.
"""

# ruff: noqa: F401
from course_utils.plots.charts import bars, lines, timeline
from course_utils.plots.diagrams import images, training_step
