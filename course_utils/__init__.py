"""What the notebooks of the course share: hardware, data, timing, drawings, proofs and exercises.

Import this package before TensorFlow: it loads neither TensorFlow nor matplotlib (each module
imports what it needs, where it needs it), and it keeps TensorFlow's start-up log out of the notebook.
"""

from course_utils.environment import quiet_logs

quiet_logs()
